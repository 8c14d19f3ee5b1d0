"""How figures went while a run trained: `metrics.json`, one line of JSON each."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .fields import printable

LARGEST = 1e30  # what is beyond has no place in a chart

Points = Sequence[tuple[int, float]]  # iterations done, and a figure


@dataclass(frozen=True)
class Curves:
    """Figures by name; those of steps and those of evaluations on the way."""

    steps: Mapping[str, Points] = field(default_factory=dict)
    evaluations: Mapping[str, Points] = field(default_factory=dict)
    damaged: int = 0  # lines that are none, apart from a last one that was cut off

    def typical(self, name: str) -> float:
        """The median of a figure of steps after the first tenth; NaN where there is none."""
        points = self.steps.get(name, ())
        values = [value for _, value in points[len(points) // 10 :]]
        return statistics.median(values) if values else math.nan

    def highest(self, name: str) -> float:
        """The largest of a figure of steps; NaN where there is none."""
        return max((value for _, value in self.steps.get(name, ())), default=math.nan)


def read_curves(file: Path) -> Curves:
    """Read a file that may still be written; without one there are no curves.

    Of an iteration that comes twice, as after an attempt that was ended, the later line counts.
    """
    if not file.is_file():
        return Curves()
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    damaged = 0
    for line in _lines(file):
        if line is None:
            damaged += 1
        else:
            (steps if "total_loss" in line else evaluations)[line["iteration"] + 1] = line
    return Curves(_by_name(steps), _by_name(evaluations), damaged)


def thinned(points: Points, most: int) -> Points:
    """At most about `most` points, each the mean of its neighbours at their mean iteration."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (round(statistics.fmean(x for x, _ in part)), statistics.fmean(y for _, y in part))
        for part in parts
    ]


def _lines(file: Path) -> Iterator[Mapping[str, Any] | None]:
    """Lines with an iteration; None for one that has none. A cut last line is not there yet."""
    with file.open("rb") as opened:
        for raw in opened:
            try:
                line = json.loads(raw)
                whole = isinstance(line, dict) and _is_count(line.get("iteration"))
            except (ValueError, RecursionError):
                whole = False
                if not raw.endswith(b"\n"):
                    return
            yield line if whole else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < LARGEST


def _by_name(lines: Mapping[int, Mapping[str, Any]]) -> dict[str, Points]:
    found: dict[str, list[tuple[int, float]]] = {}
    for iteration, line in sorted(lines.items()):
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name != "iteration" and number and abs(value) < LARGEST:  # also not NaN
                found.setdefault(printable(name), []).append((iteration, float(value)))
    return dict(found)
