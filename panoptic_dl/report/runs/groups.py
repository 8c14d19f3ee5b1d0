"""Runs of one experiment that differ by their seed: mean and standard deviation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .run import MEASURING, Run


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds: mean, sample standard deviation (NaN for one run), and how many."""

    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Group:
    """Runs of the same row and config but for the seed, by their seeds."""

    runs: Sequence[Run]
    replaced: Sequence[Run] = ()  # older runs of the same config and seed

    @property
    def first(self) -> Run:
        """One that stands for all: finished, if there is one."""
        return next((run for run in self.runs if run.finished), self.runs[0])

    @property
    def finished(self) -> Sequence[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def label(self) -> str:
        """What a line of a table is called: the run's name, or that of all seeds."""
        return self.first.label

    def figure(self, name: str) -> Spread | None:
        """Over the finished runs; None where one of them has no such figure."""
        values = [run.metrics.get(name) for run in self.finished]
        known = [value for value in values if value is not None]
        return spread(known) if known and len(known) == len(values) else None

    def figures(self) -> list[str]:
        """The names of all figures, in the order in which runs have them."""
        return list(dict.fromkeys(name for run in self.finished for name in run.metrics))


def spread(values: Sequence[float]) -> Spread:
    """Of percentages; NaN as soon as one is."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group what trains or evaluates; runs of other modes have no figures to be grouped.

    Of several runs with the same config and seed the newest finished one stays, else the newest;
    a random seed (None) is never the same as another.
    """
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.mode in MEASURING:
            families.setdefault((run.row, run.mode, run.family), []).append(run)
    return [_group(members) for members in families.values()]


def _group(members: Sequence[Run]) -> Group:
    kept: list[Run] = []
    replaced: list[Run] = []
    for run in sorted(members, key=lambda run: (run.finished, run.when), reverse=True):
        again = run.seed is not None and any(other.seed == run.seed for other in kept)
        (replaced if again else kept).append(run)
    kept.sort(key=lambda run: (run.seed is None, run.seed or 0, run.label))
    return Group(kept, replaced)
