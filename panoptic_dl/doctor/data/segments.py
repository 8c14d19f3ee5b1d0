"""The segments of a label, without sorting its pixels.

Shapes: H W pixels; N runs, pieces of rows with one value; K values.
"""

import numpy as np

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


class Segments:
    """The values of a label, (H, W) integers: a label has few runs, which are quickly sorted.

    Attributes:
        values: (K,) that occur, ascending.
    """

    def __init__(self, label: np.ndarray) -> None:
        self._shape = height, width = label.shape
        begins = np.ones((height, width), dtype=bool)  # of a run; each row begins one
        np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
        self._starts = np.flatnonzero(begins)
        self._lengths = np.diff(self._starts, append=label.size)
        self.values, self._of_run = np.unique(label.ravel()[self._starts], return_inverse=True)

    def areas(self) -> dict[int, int]:
        """Pixels of each value."""
        counts = np.bincount(self._of_run, weights=self._lengths, minlength=len(self.values))
        return {int(v): int(c) for v, c in zip(self.values, counts, strict=True)}

    def boxes(self) -> dict[int, Box]:
        """The smallest box around each value."""
        rows, first = np.divmod(self._starts, self._shape[1])
        last = first + self._lengths - 1
        left, top = (np.full(len(self.values), max(self._shape)) for _ in range(2))
        right, bottom = (np.full(len(self.values), -1) for _ in range(2))
        np.minimum.at(left, self._of_run, first)
        np.minimum.at(top, self._of_run, rows)
        np.maximum.at(right, self._of_run, last)
        np.maximum.at(bottom, self._of_run, rows)
        sides = np.stack((left, top, right - left + 1, bottom - top + 1), axis=1).tolist()
        return {int(v): tuple(side) for v, side in zip(self.values, sides, strict=True)}

    def replaced(self, new: dict[int, int], default: int) -> np.ndarray:
        """(H, W) int64 with `new[value]`, or `default` where that has none, for each value."""
        table = np.array([new.get(int(v), default) for v in self.values], dtype=np.int64)
        return np.repeat(table[self._of_run], self._lengths).reshape(self._shape)
