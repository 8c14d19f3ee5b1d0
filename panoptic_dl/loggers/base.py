"""The interface of loggers, and `Loggers`, which calls several.

Loggers work in the main process. Iterations count from 0, as in metrics.json.
"""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import nn

from panoptic_dl.launch.session import exit_status
from panoptic_dl.visualize.sheets import Sample

logger = logging.getLogger(__name__)
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run that begins or is resumed."""

    folder: Path
    mode: str  # train | eval | benchmark
    start: int = 0  # the first iteration to come
    history: Sequence[Metrics] = ()  # earlier lines of metrics.json, each with "iteration"
    model: nn.Module | None = None


@dataclass(frozen=True)
class Confusions:
    """The confusion matrix of K classes, in pixels."""

    names: Sequence[str]
    counts: NDArray[np.int64]  # (K, K + 1): rows true, columns predicted, the last column none


@dataclass(frozen=True)
class Details:
    """What an evaluation returns besides its metrics."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the evaluators
    samples: Sequence[Sample] = ()  # the first images, the same in every evaluation
    class_names: Sequence[str] = ()
    confusions: Confusions | None = None
    pictures: Sequence[Path] = ()  # files that were drawn


def is_evaluation(line: Metrics) -> bool:
    """Whether a line of metrics.json is of an evaluation, and not of a training step."""
    return "total_loss" not in line


SECTIONS = {"time": "speed", "data_time": "speed", "images_per_s": "speed"}
SECTIONS |= {"host_memory_MiB": "memory", "device_memory_MiB": "memory"}


class Logger:
    """Base class of loggers, which does nothing; subclasses override what they log.

    Whatever a method raises, training goes on, and the logger is not called again.
    """

    @staticmethod
    def in_sections(line: Metrics) -> dict[str, float]:
        """`total_loss` becomes `train/total_loss`, `PQ` of an evaluation `eval/PQ`; `lr` stays."""
        section = "eval" if is_evaluation(line) else "train"
        return {
            name if name == "lr" else f"{SECTIONS.get(name, section)}/{name}": value
            for name, value in line.items()
            if name != "iteration"
        }

    def start(self, run: Run) -> None:
        """Begin, or go on with the run that left the same folder."""

    def step(self, iteration: int, metrics: Metrics) -> None:
        """Log losses, learning rate, times and memory of a training step, as in metrics.json."""

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        """Log metrics in percent of the state after an iteration; NaN: undefined."""

    def measured(self, metrics: Metrics, pictures: Sequence[Path]) -> None:
        """Log metrics of a run without iterations, such as a benchmark; names have units."""

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        """Log a checkpoint that was written; `best`: the best of the run so far."""

    def finish(self, status: str, exit_code: int) -> None:
        """End the run, with status finished | stopped | failed. The last call."""


class Loggers:
    """Calls all loggers in the main process; one that raises is left out from there on.

    The run of a `with` block ends with the block: `finish` is called, if `start` was.
    """

    def __init__(self, loggers: Mapping[str, Logger] | None) -> None:
        """`loggers` by their names in the config; ValueError where one is no logger."""
        for name, each in (loggers or {}).items():
            if not isinstance(each, Logger):
                raise ValueError(
                    f"logger.{name} is no logger; choose options of the group, such as "
                    "logger=[tensorboard,wandb], and set their keys: logger.wandb.project=NAME"
                )
        self._loggers = dict(loggers or {}) if comm.is_main_process() else {}
        self._started = False

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._started:
            self._call("finish", *exit_status(error))
        self._loggers = {}

    def start(self, run: Run) -> None:
        """Begin a run in all loggers."""
        self._started = True
        self._call("start", run)

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        for name, each in list(self._loggers.items()):
            try:
                getattr(each, method)(*arguments, **options)
            except Exception as error:
                del self._loggers[name]
                said = f"{type(error).__name__}: {str(error)[:500]}"
                logger.warning(
                    f"logger={name} failed and is left out from here on; the run and metrics.json "
                    f"go on ({said})"
                )
                logger.debug("The traceback", exc_info=True)
                with contextlib.suppress(Exception):  # it may still close what is open
                    each.finish("failed", 1)

    step = partialmethod(_call, "step")
    evaluation = partialmethod(_call, "evaluation")
    measured = partialmethod(_call, "measured")
    checkpoint = partialmethod(_call, "checkpoint")
