"""What a logger is told, and what it may do about it.

All of it happens in the main process. Iterations count from 0, as in metrics.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.visualize.samples import Sample

from . import run_facts

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run that begins, or goes on."""

    folder: Path
    mode: str  # train | eval | benchmark
    start: int = 0  # the first iteration to come
    history: Sequence[Figures] = ()  # lines of metrics.json from before, each with "iteration"
    modules: Sequence[tuple[str, str, int, int]] = ()  # name, class, parameters, of these trained
    about: Mapping[str, Any] = field(default_factory=dict)  # the folder's run.json, if there is one

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The whole config, resolved where the folder has it so; read for who wants it."""
        return run_facts.config(self.folder)


@dataclass(frozen=True)
class Confusions:
    """Which of K classes are taken for which."""

    names: Sequence[str]
    counts: NDArray[np.int64]  # (K, K + 1) pixels: rows true, columns predicted, the last none


@dataclass(frozen=True)
class Details:
    """What an evaluation knows besides its figures."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the evaluators
    samples: Sequence[Sample] = ()  # the first images, the same in every evaluation
    class_names: Sequence[str] = ()
    confusions: Confusions | None = None
    pictures: Sequence[Path] = ()  # files that were drawn


def is_evaluation(line: Figures) -> bool:
    """Whether a line of metrics.json is of an evaluation, and not of a training step."""
    return "total_loss" not in line


class Logger:
    """Does nothing with what it is told; loggers override what they care for.

    Whatever a method raises, training goes on, and the logger is told no more.
    """

    def start(self, run: Run) -> None:
        """Begin, or go on with the run that left the same folder."""

    def step(self, iteration: int, figures: Figures) -> None:
        """Losses, learning rate, times and memory of a training step, named as in metrics.json."""

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        """Figures in percent of the state after an iteration; NaN: undefined."""

    def measured(self, figures: Figures, pictures: Sequence[Path]) -> None:
        """Figures of a run without iterations, such as a benchmark's, named with their units."""

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        """A checkpoint was written; `best`: it is the best of the run so far."""

    def finish(self, status: str, exit_code: int) -> None:
        """The run has ended: finished | stopped | failed. The last call."""
