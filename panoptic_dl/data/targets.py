"""What Panoptic-DeepLab learns from a panoptic label (Cheng et al., CVPR 2020, section 3.3).

Equal to Detectron2's `PanopticDeepLabTargetGenerator` in every number, from one pass over the
pixels where that one compares all of them with each segment's id, up to five times.

Shapes: H W pixels, S segments.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from panoptic_dl.core.images import segment_numbers

# What Detectron2's "center minus coordinate" is computed in, a float64 minus a float32: NumPy 1
# takes the array's type, NumPy 2 the wider one.
OFFSET_DTYPE = (np.float64(0.5) - np.zeros(1, np.float32)).dtype


@dataclass(kw_only=True)
class PanopticTargets:
    """Makes the targets of one label.

    Args:
        ignore_label: semantic target of pixels without a label.
        thing_ids: the categories that have instances.
        sigma: of the peak at each center in the heatmap, in pixels.
        ignore_stuff_in_offset: the offset loss looks at things only.
        small_instance_area: instances with fewer pixels weigh `small_instance_weight` times in the
            semantic loss.
        ignore_crowd_in_semantic: crowd regions get `ignore_label`.
    """

    ignore_label: int
    thing_ids: Collection[int]
    sigma: int
    ignore_stuff_in_offset: bool = True
    small_instance_area: int = 0
    small_instance_weight: int = 1
    ignore_crowd_in_semantic: bool = False

    def __post_init__(self) -> None:
        distance = np.arange(6 * self.sigma + 3, dtype=float) - (3 * self.sigma + 1)
        squares = distance**2 + (distance**2)[:, None]
        self.peak = np.exp(-squares / (2 * self.sigma**2)).astype(np.float32)

    def __call__(
        self, ids: NDArray[np.integer], segments: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        """The targets of `ids`, (H, W), each the "id" of one of the segments, or of none.

        Args:
            segments: "id", no two the same, contiguous "category_id", "iscrowd".

        Returns:
            "sem_seg" (H, W) int64, "sem_seg_weights" (H, W), "center" (H, W), "center_weights"
            (1, H, W), "offset" (2, H, W) in pixels, y before x, "offset_weights" (1, H, W), all
            float32, and "center_points" [[y, x], ...] of the things that are seen.
        """
        numbers = segment_numbers(ids, [segment["id"] for segment in segments])
        areas, rows, columns = _moments(numbers, len(segments) + 1)
        # By number; 0 is none of the segments. In 8 bits, as in Detectron2.
        semantic = np.full(len(segments) + 1, self.ignore_label, np.uint8)
        weights = np.ones(len(segments) + 1, np.uint8)
        in_center = np.zeros(len(segments) + 1, np.uint8)
        in_offset = np.zeros(len(segments) + 1, np.uint8)
        is_thing = np.zeros(len(segments) + 1, bool)
        centers = np.zeros((2, len(segments) + 1))
        points = []
        for number, segment in enumerate(segments, start=1):
            crowd, category = segment["iscrowd"], segment["category_id"]
            if not (self.ignore_crowd_in_semantic and crowd):
                semantic[number] = category
            if not crowd:
                in_center[number] = 1
                in_offset[number] = not self.ignore_stuff_in_offset or category in self.thing_ids
            if category not in self.thing_ids or not areas[number]:
                continue
            if areas[number] < self.small_instance_area:
                weights[number] = self.small_instance_weight
            is_thing[number] = True
            # Sums of whole numbers are exact, so these are the means that NumPy finds.
            center = rows[number] / areas[number], columns[number] / areas[number]
            centers[:, number] = center
            points.append(list(center))
        return {
            "sem_seg": torch.from_numpy(semantic.astype(np.int64)[numbers]),
            "center": torch.from_numpy(self._heatmap(numbers.shape, points)),
            "center_points": points,
            "offset": torch.from_numpy(_offsets(numbers, is_thing, centers)),
            "sem_seg_weights": torch.from_numpy(weights.astype(np.float32)[numbers]),
            "center_weights": torch.from_numpy(in_center.astype(np.float32)[numbers][None]),
            "offset_weights": torch.from_numpy(in_offset.astype(np.float32)[numbers][None]),
        }

    def _heatmap(
        self, shape: tuple[int, ...], points: Sequence[Sequence[float]]
    ) -> NDArray[np.float32]:
        """The largest of the peaks at `points`, (H, W)."""
        heatmap = np.zeros(shape, np.float32)
        reach = 3 * self.sigma + 1
        for point in points:
            top, left = (round(float(coordinate)) - reach for coordinate in point)
            window = heatmap[max(0, top) : top + len(self.peak), max(0, left) :][
                :, : left + len(self.peak) - max(0, left)
            ]
            y, x = max(0, -top), max(0, -left)
            peak = self.peak[y : y + window.shape[0], x : x + window.shape[1]]
            np.maximum(window, peak, out=window)
        return heatmap


def _moments(
    numbers: NDArray[np.integer], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each number below `count`: its pixels, and the sums of their rows and columns."""
    height, width = numbers.shape
    wide = numbers.astype(np.intp)
    by_row = np.bincount(
        (wide + count * np.arange(height)[:, None]).ravel(), minlength=count * height
    ).reshape(height, count)
    by_column = np.bincount(
        (wide + count * np.arange(width)).ravel(), minlength=count * width
    ).reshape(width, count)
    return by_row.sum(0), np.arange(height) @ by_row, np.arange(width) @ by_column


def _offsets(
    numbers: NDArray[np.integer], is_thing: NDArray[np.bool_], centers: NDArray[np.float64]
) -> NDArray[np.float32]:
    """From each pixel of a thing to its center, (2, H, W) (y, x); 0 elsewhere."""
    height, width = numbers.shape
    offset = np.zeros((2, height, width), np.float32)
    pixels = np.flatnonzero(is_thing[numbers])
    owners = numbers.ravel()[pixels]
    y, x = np.divmod(pixels, width)
    for axis, coordinates in enumerate((y, x)):
        away = centers[axis].astype(OFFSET_DTYPE)[owners] - coordinates.astype(np.float32)
        offset[axis].ravel()[pixels] = away
    return offset
