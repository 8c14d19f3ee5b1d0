"""Hold our figures against those of the official evaluators, for the same predictions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from panoptic_dl.evaluation.figures import EvaluationError, Results

TOLERANCES = {  # of percentages: 1e-12 of counts and ratios, 1e-9 of average precisions
    "panoptic_seg": 1e-10,
    "sem_seg": 1e-10,
    "bbox": 1e-7,
    "segm": 1e-7,
}


@dataclass(frozen=True)
class Pair:
    """One figure, in percent, as both have it."""

    task: str
    name: str
    own: float
    official: float

    @property
    def difference(self) -> float:
        """Of two figures that are both undefined it is 0; of one that is, NaN."""
        if math.isnan(self.own) and math.isnan(self.official):
            return 0.0
        return self.own - self.official

    @property
    def agrees(self) -> bool:
        """Whether the difference lies within the tolerance of the task."""
        return abs(self.difference) <= TOLERANCES[self.task]


def pair_up(own: Results, official: Results) -> list[Pair]:
    """All figures that both have, in the order of the official ones.

    Raises:
        EvaluationError: an official task or none of its figures is among our own.
    """
    pairs = []
    for task, figures in official.items():
        shared = list(_shared(task, own.get(task, {}), figures))
        if not shared:
            raise EvaluationError(f"the official evaluators report {task}, ours do not")
        pairs += shared
    return pairs


def require_agreement(pairs: list[Pair]) -> None:
    """Raise `EvaluationError` that names the figures which differ beyond the tolerances."""
    odd = [pair for pair in pairs if not pair.agrees]
    if odd:
        names = ", ".join(
            f"{pair.task}.{pair.name} {pair.own:.12g} (official {pair.official:.12g})"
            for pair in odd[:5]
        )
        raise EvaluationError(
            f"{len(odd)} of {len(pairs)} figures differ from the official evaluators': {names}. "
            "Where areas in the panoptic JSON are wrong (num_wrong_areas in results.json), the "
            "official ones trust them: prepare the dataset again; else please report this as a bug"
        )


def _shared(task: str, own: Results, official: Results) -> Iterator[Pair]:
    for name, value in official.items():
        if name in own:
            yield Pair(task, name, float(own[name]), float(value))  # type: ignore[arg-type]
