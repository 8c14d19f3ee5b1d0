"""Images of any size through a network, and its maps back to the size of the image.

H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torch import Tensor

from panoptic_dl.visualize.segments import SegmentTable

LARGEST = 16  # factor that is rounded; beyond, squares stay visible


class AnySize(T.AugInput):
    """An image on its way through a test resize, which may not leave less than one pixel.

    Detectron2 rounds a side of 20 x 3000 pixels at the size of 256 to nothing, and fails.
    """

    def transform(self, tfm: T.Transform) -> None:
        """Resize to at least one pixel."""
        if isinstance(tfm, T.ResizeTransform):
            tfm.new_h, tfm.new_w = max(1, tfm.new_h), max(1, tfm.new_w)
        super().transform(tfm)


def to_network(image: NDArray[np.uint8], augmentations: Any, image_format: str) -> Tensor:
    """(H, W, 3) RGB to (3, h, w) uint8 as a test mapper of the dataset does it."""
    given = AnySize(np.ascontiguousarray(image[..., ::-1]) if image_format == "BGR" else image)
    augmentations(given)
    return torch.as_tensor(np.ascontiguousarray(given.image.transpose(2, 0, 1)))


def labels_at(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """A map of labels at (height, width): the label of the nearest pixel.

    Where that makes squares of 2 x 2 and more, their corners are rounded, by the median of the
    labels around each pixel. Lines keep their width; a segment of a single pixel may vanish.
    """
    if labels.shape == size:
        return labels
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp).clip(0, old - 1)
        for old, new in zip(labels.shape, size, strict=True)
    )
    return _rounded(labels[rows[:, None], columns], min(_ratios(labels.shape, size)))


def _ratios(old: Sequence[int], new: Sequence[int]) -> list[float]:
    return [b / a for a, b in zip(old, new, strict=True)]


def _rounded(labels: NDArray[np.integer], factor: float) -> NDArray[np.integer]:
    side = 2 * min(int(factor), LARGEST) - 1  # in which a line of `factor` pixels has the majority
    if side < 3:
        return labels
    table = SegmentTable.of(labels.astype(np.int32))
    # OpenCV has small windows alone for more than 256 labels.
    index = cv2.medianBlur(table.index, side if table.index.dtype == np.uint8 else min(side, 5))
    return table.ids[index].astype(labels.dtype)


def values_at(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w) of numbers at (height, width), bilinearly."""
    if values.shape == size:
        return values
    return cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
