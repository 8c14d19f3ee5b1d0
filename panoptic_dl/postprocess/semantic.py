"""From class logits to maps at the size of the output, with no pass over memory that can be saved.

`torch.argmax` over 19 x 1024 x 2048 logits takes longer on a CPU than all other post-processing.
`argmax_classes` goes through the classes instead, a few image rows at a time, which stay in the
cache, and returns the same in a fraction of the time.

Shapes: K classes, C channels; h w pixels at the network's stride, H W pixels of the image.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROWS = 32  # of an image, whose logits of one class fit into the cache
STRIDE_ROWS = 16  # at the network's stride, that are upsampled at once


def resize(maps: Tensor, image_size: tuple[int, int], height: int, width: int) -> Tensor:
    """Cut the padding from (C, H, W) maps and scale them to (C, height, width), bilinearly.

    Detectron2's `sem_seg_postprocess`, which also copies where nothing is to be scaled: then this
    returns a view.
    """
    maps = maps[:, : image_size[0], : image_size[1]]
    if image_size == (height, width):
        return maps
    return F.interpolate(
        maps.unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False
    ).squeeze(0)


def upsample(maps: Tensor, stride: int) -> Tensor:
    """(C, h, w) -> (C, h * stride, w * stride), bilinearly, as Detectron2's heads do it."""
    return F.interpolate(
        maps.unsqueeze(0), scale_factor=stride, mode="bilinear", align_corners=False
    ).squeeze(0)


def argmax_classes(logits: Tensor) -> Tensor:
    """The first class with the largest logit, as `argmax` has it: (K, H, W) -> (H, W) int64."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and 1 < len(logits) <= 256:
        classes = _argmax_by_class(logits.detach().numpy())
        if classes is not None:
            return torch.from_numpy(classes).long()
    return logits.max(dim=0).indices


def argmax_upsampled(logits: Tensor, stride: int) -> Tensor:
    """The classes (h * stride, w * stride) of (K, h, w) logits, upsampled bilinearly.

    Equals `argmax_classes(upsample(logits, stride))` without its K * H * W numbers: a few rows at a
    time, each time with one more on either side, which the bilinear weights reach.
    """
    num_rows = logits.shape[1]
    strips = []
    for start in range(0, num_rows, STRIDE_ROWS):
        stop = min(start + STRIDE_ROWS, num_rows)
        first, last = max(start - 1, 0), min(stop + 1, num_rows)
        fine = upsample(logits[:, first:last], stride)
        skip = (start - first) * stride
        strips.append(argmax_classes(fine[:, skip : skip + (stop - start) * stride]))
    return torch.cat(strips)


def _argmax_by_class(logits: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """(K, H, W) -> (H, W); None when a logit is NaN, which has no order."""
    classes = np.zeros(logits.shape[1:], dtype=np.uint8)
    for top in range(0, logits.shape[1], ROWS):
        part, chosen = logits[:, top : top + ROWS], classes[top : top + ROWS]
        best = part[0].copy()
        higher = np.empty(best.shape, dtype=bool)
        for index in range(1, len(part)):
            np.greater(part[index], best, out=higher)
            np.maximum(part[index], best, out=best)
            # Classes come in rising order, so that the largest that was higher is the latest.
            np.maximum(chosen, higher.view(np.uint8) * np.uint8(index), out=chosen)
        if np.isnan(best).any():
            return None
    return classes
