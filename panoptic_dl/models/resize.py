"""From the network's maps to those of the output, with no pass over memory that can be avoided.

Legend: K classes, C channels; h w pixels at the network's stride; H W pixels of the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_dl.postprocess import most_likely_class

STRIP = 16  # rows at the network's stride that are upsampled at once: they stay in the cache


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


def most_likely_class_upsampled(logits: Tensor, stride: int) -> Tensor:
    """The class map (h * stride, w * stride) of (K, h, w) logits, upsampled bilinearly.

    Equals `most_likely_class(upsample(logits, stride))` without its K * H * W numbers: strip by
    strip, each with a row of its neighbours, which bilinear weights reach.
    """
    num_rows = logits.shape[1]
    strips = []
    for start in range(0, num_rows, STRIP):
        stop = min(start + STRIP, num_rows)
        first, last = max(start - 1, 0), min(stop + 1, num_rows)
        fine = upsample(logits[:, first:last], stride)
        skip = (start - first) * stride
        strips.append(most_likely_class(fine[:, skip : skip + (stop - start) * stride]))
    return torch.cat(strips)
