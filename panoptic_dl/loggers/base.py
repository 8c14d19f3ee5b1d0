"""What a logger is told, and what it may do about it.

All of it happens in the main process. Iterations count from 0, as in metrics.json.

Several loggers as one; none of them can stop a run.

Calls that may hang, made in a thread of their own and waited for only so long.

The parts of a network and how many parameters they have.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import nn

from panoptic_dl.core.run_folder import read_config, read_state
from panoptic_dl.visualize.sheets import Sample

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run that begins, or goes on."""

    folder: Path
    mode: str  # train | eval | benchmark
    start: int = 0  # the first iteration to come
    history: Sequence[Figures] = ()  # lines of metrics.json from before, each with "iteration"
    modules: Sequence[tuple[str, str, int, int]] = ()  # name, class, parameters, of these trained

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """The folder's run.json, or {}."""
        return read_state(self.folder)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The whole config, resolved where the folder has it so; read for who wants it."""
        return read_config(self.folder)


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


logger = logging.getLogger(__name__)


class Loggers:
    """Tells all loggers in the main process; one that raises is left out from there on."""

    def __init__(self, loggers: Mapping[str, Logger] | None) -> None:
        """
        Args:
            loggers: by names for messages.

        Raises:
            ValueError: one is no logger.
        """
        for name, each in (loggers or {}).items():
            if not isinstance(each, Logger):
                raise ValueError(
                    f"logger.{name} is no logger; choose options of the group, such as "
                    "logger=[tensorboard,wandb], and set their keys: logger.wandb.project=NAME"
                )
        self._loggers = dict(loggers or {}) if comm.is_main_process() else {}
        self._started = False

    def __bool__(self) -> bool:
        """Whether anyone listens, in this process."""
        return bool(self._loggers)

    def start(self, run: Run) -> None:
        self._started = True
        self._tell(lambda each: each.start(run))

    def step(self, iteration: int, figures: Figures) -> None:
        self._tell(lambda each: each.step(iteration, figures))

    def evaluation(self, iteration: int, figures: Figures, details: Details) -> None:
        self._tell(lambda each: each.evaluation(iteration, figures, details))

    def measured(self, figures: Figures, pictures: Sequence[Path]) -> None:
        self._tell(lambda each: each.measured(figures, pictures))

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        self._tell(lambda each: each.checkpoint(file, iteration, best))

    def finish(self, status: str, exit_code: int) -> None:
        if self._started:
            self._tell(lambda each: each.finish(status, exit_code))
        self._loggers = {}

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, each in list(self._loggers.items()):
            try:
                what(each)
            except Exception as error:
                del self._loggers[name]
                logger.warning(
                    "logger=%s failed and is left out from here on; the run and metrics.json go "
                    "on (%s: %s)",
                    name,
                    type(error).__name__,
                    str(error)[:500],
                )
                logger.debug("The traceback", exc_info=True)
                with contextlib.suppress(Exception):  # it may still close what is open
                    each.finish("failed", 1)


@contextlib.contextmanager
def ending(
    loggers: Loggers, ended: Callable[[BaseException | None], tuple[str, int]]
) -> Iterator[None]:
    """Tell the loggers how what is inside ended.

    Args:
        ended: from what was raised, or None, to the status and the exit code.
    """
    try:
        yield
    except BaseException as error:
        loggers.finish(*ended(error))
        raise
    loggers.finish(*ended(None))


T = TypeVar("T")


class NotInTime(RuntimeError):
    """A call did not return in its time; it may still be under way."""


class Patience:
    """Makes calls one after the other; the one that takes too long is the last."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: of the thread, which ends with the program at the latest.
        """
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._late: str | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def __call__(self, call: Callable[[], T], seconds: float, what: str) -> T:
        """Return what `call` returns, or raise what it raises.

        Args:
            what: is done, for the message.

        Raises:
            NotInTime: it took longer than `seconds`, or one before it did.
        """
        if self._late is not None:
            raise NotInTime(self._late)
        future: Future[T] = Future()
        self._calls.put((call, future))
        try:
            return future.result(timeout=seconds)
        except TimeoutError:
            if future.done():  # the call itself raised it
                raise
            self._late = f"{what} took longer than {seconds:g} s"
            raise NotInTime(self._late) from None

    def end(self) -> None:
        """Let the thread go once its calls have returned."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # such as SystemExit: our program goes on
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))


DEPTH = 2  # of names such as backbone.stem


def modules(model: nn.Module) -> list[tuple[str, str, int, int]]:
    """Name, class, parameters, and how many of these are trained; the first row is all of it."""
    rows = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name.count(".") < DEPTH and parameters:
            count = sum(p.numel() for p in parameters)
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            rows.append((name or "network", type(module).__name__, count, trained))
    return rows
