"""The interface of loggers, `Loggers` that calls several, and calls with a timeout.

Loggers work in the main process. Iterations count from 0, as in metrics.json.
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

logger = logging.getLogger(__name__)
T = TypeVar("T")
Metrics = Mapping[str, float]
MODULE_DEPTH = 2  # of names such as backbone.stem


@dataclass(frozen=True)
class Run:
    """A run that begins or is resumed."""

    folder: Path
    mode: str  # train | eval | benchmark
    start: int = 0  # the first iteration to come
    history: Sequence[Metrics] = ()  # earlier lines of metrics.json, each with "iteration"
    modules: Sequence[tuple[str, str, int, int]] = ()  # see `count_parameters`

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The folder's run.json, or {}."""
        return read_state(self.folder)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The whole config, resolved where the folder has it so."""
        return read_config(self.folder)


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


class Logger:
    """Base class of loggers, which does nothing; subclasses override what they log.

    Whatever a method raises, training goes on, and the logger is not called again.
    """

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


class Loggers(Logger):
    """Calls all loggers in the main process; one that raises is left out from there on."""

    def __init__(self, loggers: Mapping[str, Logger] | None) -> None:
        """
        Args:
            loggers: by their names in the config.

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
        """Whether this process has any logger."""
        return bool(self._loggers)

    def start(self, run: Run) -> None:
        self._started = True
        self._call("start", run)

    def step(self, iteration: int, metrics: Metrics) -> None:
        self._call("step", iteration, metrics)

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        self._call("evaluation", iteration, metrics, details)

    def measured(self, metrics: Metrics, pictures: Sequence[Path]) -> None:
        self._call("measured", metrics, pictures)

    def checkpoint(self, file: Path, iteration: int, best: bool) -> None:
        self._call("checkpoint", file, iteration, best)

    def finish(self, status: str, exit_code: int) -> None:
        if self._started:
            self._call("finish", status, exit_code)
        self._loggers = {}

    def _call(self, method: str, *arguments: Any) -> None:
        for name, each in list(self._loggers.items()):
            try:
                getattr(each, method)(*arguments)
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
def finishing(
    loggers: Loggers, exit_status: Callable[[BaseException | None], tuple[str, int]]
) -> Iterator[None]:
    """Call `loggers.finish` at the end of the block, whatever ends it.

    Args:
        exit_status: gives status and exit code for the exception, or None.
    """
    try:
        yield
    except BaseException as error:
        loggers.finish(*exit_status(error))
        raise
    loggers.finish(*exit_status(None))


class CallTimeout(RuntimeError):
    """A call did not return within its timeout; it may still be running."""


class TimeoutThread:
    """A thread that makes one call after the other; none is made after one that timed out."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: of the thread, which ends with the program at the latest.
        """
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._timed_out: str | None = None
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def __call__(self, call: Callable[[], T], timeout: float, what: str) -> T:
        """Return what `call` returns, or raise what it raises.

        Args:
            timeout: seconds.
            what: the call does, for the message.

        Raises:
            CallTimeout: this call, or one before it, took longer than its timeout.
        """
        if self._timed_out is not None:
            raise CallTimeout(self._timed_out)
        future: Future[T] = Future()
        self._calls.put((call, future))
        try:
            return future.result(timeout=timeout)
        except TimeoutError:
            if future.done():  # the call itself raised it
                raise
            self._timed_out = f"{what} took longer than {timeout:g} s"
            raise CallTimeout(self._timed_out) from None

    def end(self) -> None:
        """End the thread once its calls have returned."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # such as SystemExit, which must not end the run
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))


def count_parameters(model: nn.Module) -> list[tuple[str, str, int, int]]:
    """List the modules of a network, the network itself first, `MODULE_DEPTH` levels deep.

    Returns:
        Name, class, number of parameters, and how many of these are trained.
    """
    rows = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if name.count(".") < MODULE_DEPTH and parameters:
            count = sum(p.numel() for p in parameters)
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            rows.append((name or "network", type(module).__name__, count, trained))
    return rows
