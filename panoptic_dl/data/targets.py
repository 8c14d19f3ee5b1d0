"""What Panoptic-DeepLab learns from a panoptic label (Cheng et al., CVPR 2020, section 3.3).

Equal to Detectron2's `PanopticDeepLabTargetGenerator` in every number. That one compares all pixels
with each segment's id, up to five times; here a row is a few runs of equal ids, and sums and maps
come from those.

Shapes: H W pixels, R runs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        runs = _Runs.of(ids, [segment["id"] for segment in segments])
        areas, rows, columns = runs.moments(len(segments) + 1)
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

        def mapped(values: NDArray[np.uint8], dtype: type) -> torch.Tensor:
            return torch.from_numpy(runs.map(values.astype(dtype)[runs.numbers]))

        return {
            "sem_seg": mapped(semantic, np.int64),
            "center": torch.from_numpy(self._heatmap(ids.shape, points)),
            "center_points": points,
            "offset": torch.from_numpy(runs.offsets(is_thing, centers)),
            "sem_seg_weights": mapped(weights, np.float32),
            "center_weights": mapped(in_center, np.float32)[None],
            "offset_weights": mapped(in_offset, np.float32)[None],
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


class _Runs(NamedTuple):
    """Neighbors in a row of a label that belong to one segment; row by row, all pixels (H, W)."""

    shape: tuple[int, ...]
    numbers: NDArray[np.uint16]  # (R,) 1 + position of the run's segment; 0: none of them
    rows: NDArray[np.int64]  # (R,)
    columns: NDArray[np.int64]  # (R,) of the first pixel
    lengths: NDArray[np.int64]  # (R,)

    @classmethod
    def of(cls, ids: NDArray[np.integer], segment_ids: Sequence[int]) -> "_Runs":
        is_first = np.ones(ids.shape, bool)
        np.not_equal(ids[:, 1:], ids[:, :-1], out=is_first[:, 1:])
        first = np.flatnonzero(is_first)
        rows, columns = np.divmod(first, ids.shape[1])
        numbers = segment_numbers(ids[rows, columns], segment_ids)
        return cls(ids.shape, numbers, rows, columns, np.diff(first, append=ids.size))

    def map(self, values: NDArray[Any]) -> NDArray[Any]:
        """(H, W) of `values`, (R,)."""
        return np.repeat(values, self.lengths).reshape(self.shape)

    def moments(self, count: int) -> list[NDArray[Any]]:
        """For each number below `count`: its pixels, and the sums of their rows and columns."""
        twice = (2 * self.columns + self.lengths - 1) * self.lengths
        sums = self.lengths, self.rows * self.lengths, twice // 2
        return [np.bincount(self.numbers, each, minlength=count) for each in sums]

    def offsets(
        self, is_thing: NDArray[np.bool_], centers: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """From each pixel of a thing to its center, (2, H, W) (y, x); 0 elsewhere."""
        found, here = is_thing[self.numbers], centers[:, self.numbers].astype(OFFSET_DTYPE)
        offset = np.empty((2, *self.shape), np.float32)
        offset[0] = self.map(np.where(found, here[0] - self.rows.astype(np.float32), 0))
        columns = np.arange(self.shape[1], dtype=np.float32)
        np.subtract(self.map(here[1]), columns, out=offset[1], casting="same_kind")
        np.copyto(offset[1], 0, where=self.map(~found))
        return offset
