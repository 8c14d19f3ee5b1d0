"""The segments of a map as a small table: colours and sizes come from it, never from masks.

H W pixels, S segments.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

WIDEST_TABLE = 1 << 22  # labels up to here are counted, larger ones sorted


@dataclass(frozen=True)
class SegmentTable:
    """What a map of labels holds.

    Attributes:
        ids: (S,) the labels that occur, ascending.
        index: (H, W) the place of each pixel's label in `ids`; uint8 where that is enough.
        areas: (S,) in pixels.
    """

    ids: NDArray[np.int64]
    index: NDArray[np.integer]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.integer]) -> "SegmentTable":
        """Of a map (H, W) of labels from -1, which mostly means void."""
        highest = int(labels.max(initial=-1))
        if highest >= WIDEST_TABLE:
            ids, index, areas = np.unique(labels, return_inverse=True, return_counts=True)
            index = index.reshape(labels.shape)
        else:
            slots = labels + 1
            counts = np.bincount(slots.reshape(-1), minlength=1)
            found = np.flatnonzero(counts)
            ids, areas = found - 1, counts[found]
            table = np.zeros(len(counts), np.uint16)
            table[found] = np.arange(len(found))
            index = table[slots]
        return cls(ids, index.astype(np.uint8 if len(ids) <= 256 else np.uint16), areas)

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) of each segment in pixels, right and bottom exclusive."""
        found = find_objects(self.index.astype(np.int32) + 1, max_label=len(self.ids))
        return [(x.start, y.start, x.stop, y.stop) for y, x in found]

    def paint(self, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) of the colours (S, 3) of the segments."""
        if self.index.dtype == np.uint8:
            table = np.zeros((1, 256, 3), np.uint8)
            table[0, : len(colors)] = colors
            return np.asarray(cv2.LUT(cv2.merge([self.index] * 3), table), np.uint8)
        return colors[self.index]

    def choose(self, wanted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(H, W) mask, 255 where the segment (of (S,) bool) is wanted, else 0."""
        if self.index.dtype == np.uint8:
            table = np.zeros(256, np.uint8)
            table[: len(wanted)] = wanted * np.uint8(255)
            return np.asarray(cv2.LUT(self.index, table), np.uint8)
        return (wanted * np.uint8(255))[self.index]

    def edges(self, thickness: int = 1) -> NDArray[np.uint8]:
        """(H, W) mask, 255 on lines of `thickness` pixels between segments, else 0."""
        index = self.index
        edge = np.zeros(index.shape, np.uint8)
        edge[1:] |= index[1:] != index[:-1]
        edge[:, 1:] |= index[:, 1:] != index[:, :-1]
        edge *= 255
        if thickness > 1:
            square = np.ones((thickness, thickness), np.uint8)
            return np.asarray(cv2.dilate(edge, square), np.uint8)
        return edge
