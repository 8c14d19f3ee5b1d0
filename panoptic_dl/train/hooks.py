"""When a run is saved and evaluated.

What a run writes of its figures: metrics.json, the console, and what its loggers are told.

Loggers of a run: told how it begins, and how it ended.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import ExitCode, read_state
from panoptic_dl.launch.signals import Interrupted, StopRequest
from panoptic_dl.loggers.base import Details, Figures, Logger, Loggers, Run, is_evaluation
from panoptic_dl.train import console as memory
from panoptic_dl.train.checkpoint import RunCheckpoints
from panoptic_dl.train.console import ConsoleWriter

FILE = "metrics.json"


class RunRecord(HookBase):
    """The figures of every `log_period`-th step, and of every evaluation in a line of its own.

    Register it before what saves: a step's line is on the disk when its checkpoint is, so a run
    that is killed and goes on has each line once. For the main process.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        start: int,
        iterations: int,
        batch_size: int,
        log_period: int,
        on_error: str,
        loggers: Loggers,
        device: torch.device,
    ) -> None:
        """
        Args:
            start: first iteration to come; what metrics.json holds of it or later ones, from an
                attempt that was ended and goes on from a checkpoint, is dropped.
            batch_size: images of an iteration, of all processes.
            on_error: a full disk stops the run | continue.
            loggers: are told of every line.
            device: whose memory is recorded; of this process.

        Raises:
            OSError: the files cannot be written.
        """
        self.file, self.period, self.on_error = run_dir / FILE, log_period, on_error
        keep_lines(self.file, lambda line: line["iteration"] < start)
        self._console = ConsoleWriter(iterations, log_period)
        self._lines = self.file.open("a")
        self._loggers, self._batch_size, self._device = loggers, batch_size, device
        self._written, self._complained = start - 1, False

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            self._console.write()
            self._write_step()

    def after_train(self) -> None:
        """Write the last step's figures, when training ended between two lines."""
        self.on_error = "continue"  # what ended it must not be hidden
        last = min(self.trainer.iter, self.trainer.max_iter - 1)
        if last > self._written and "total_loss" in self.trainer.storage.latest():
            self._write_step()

    def close(self) -> None:
        """After the last evaluation."""
        self._console.close()
        self._enduring(self._lines.close)

    def history(self) -> list[Figures]:
        """The lines so far."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def figures(self, iteration: int, figures: Mapping[str, float], details: Details) -> None:
        """Write those of an evaluation after `iteration`, in place of any that there are."""
        self._enduring(
            lambda: keep_lines(
                self.file, lambda line: line["iteration"] != iteration or not is_evaluation(line)
            )
        )
        self._enduring(self._reopen)
        self._write(iteration, figures)
        self._loggers.evaluation(iteration, figures, details)

    def _reopen(self) -> None:
        self._lines.close()
        self._lines = self.file.open("a")

    def _write_step(self) -> None:
        latest = self.trainer.storage.latest()
        iteration = max(at for _, at in latest.values())
        figures = {name: v for name, (v, at) in latest.items() if at == iteration}
        figures |= self._speed_and_memory(iteration)
        self._write(iteration, figures)
        self._loggers.step(iteration, figures)
        self._written = iteration

    def _speed_and_memory(self, iteration: int) -> dict[str, float]:
        """Images a second over the steps since the line before, MiB of this process and its GPU.

        What is done between steps, such as evaluations and checkpoints, is not counted.
        """
        found = {"host_memory_MiB": memory.host()}
        times = self.trainer.storage.histories().get("time")
        if times is not None:
            count = min(iteration - self._written, len(times.values()))
            seconds = sum(value for value, _ in times.values()[-count:]) / max(count, 1)
            if seconds > 0:
                found["images_per_s"] = self._batch_size / seconds
        if self._device.type == "cuda":
            found["device_memory_MiB"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return found

    def _write(self, iteration: int, figures: Mapping[str, float]) -> None:
        line = json.dumps({**figures, "iteration": iteration}, sort_keys=True)

        def write() -> None:
            self._lines.write(line + "\n")
            self._lines.flush()
            os.fsync(self._lines.fileno())

        self._enduring(write)

    def _enduring(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if self.on_error == "stop":
                raise OSError(
                    f"cannot write the figures to {self.file}: {error}; free some space and "
                    "continue with resume=true"
                ) from error
            if not self._complained:
                logger.error("Figures cannot be written to %s: %s", self.file, error)
            self._complained = True


def keep_lines(file: Path, wanted: Callable[[dict[str, float]], bool]) -> None:
    """Drop the other lines of a metrics.json, and one that was torn."""
    if not file.is_file():
        return
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _is_wanted(line, wanted, file)]
    if kept != lines:
        write_text(file, "".join(kept))


def _is_wanted(line: str, wanted: Callable[[dict[str, float]], bool], file: Path) -> bool:
    try:
        return wanted(json.loads(line))
    except (ValueError, KeyError, TypeError):
        logger.warning("Dropped a torn line of %s: %s", file, line[:80])
        return False


logger = logging.getLogger(__name__)


class SaveOnTheWay(HookBase):
    """A checkpoint every `period` iterations, and `model_final` after the last."""

    def __init__(self, checkpoints: RunCheckpoints, period: int) -> None:
        self.checkpoints, self.period = checkpoints, period

    def before_train(self) -> None:
        if self.trainer.start_iter >= self.trainer.max_iter:  # killed before it was named so
            self.checkpoints.name_final()

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            self.checkpoints.save(self.trainer.iter, final=True, must=True)
        elif done % self.period == 0:
            self.checkpoints.save(self.trainer.iter)

    def save_now(self) -> None:
        """Save, or say that the run cannot be resumed from here."""
        self.checkpoints.save(self.trainer.iter, must=True)


class EvaluateOnTheWay(HookBase):
    """An evaluation every `period` iterations and at the end, each of a checkpoint just saved.

    So a signal may end an evaluation at once; the resumed run makes up for it. `model_best` is the
    checkpoint with the best figure so far.
    """

    def __init__(
        self,
        evaluate: Callable[[int], dict[str, Any]],
        checkpoints: RunCheckpoints,
        stop: StopRequest,
        record: RunRecord | None,
        *,
        period: int,
        at_end: bool,
    ) -> None:
        """
        Args:
            evaluate: from the iterations done to results, their figures as `metrics`; {} but on the
                main process.
            record: gets them; of the main process.
            period: 0: at the end only.
        """
        self.evaluate, self.checkpoints, self.stop = evaluate, checkpoints, stop
        self.record, self.period, self.at_end = record, period, at_end

    def before_train(self) -> None:
        done = self.trainer.start_iter
        if done >= self.trainer.max_iter:
            return
        evaluated = comm.all_gather(self.checkpoints.was_evaluated())[0]
        if done and self._is_due(done) and not evaluated:
            logger.info("The evaluation after iteration %d had not come to its end", done)
            self._evaluate(done)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._is_due(done):
            self.checkpoints.save(self.trainer.iter)
            self._evaluate(done)

    def after_train(self) -> None:
        if self.at_end and self.trainer.iter >= self.trainer.max_iter:  # all steps were done
            self._evaluate(self.trainer.max_iter)

    def _is_due(self, done: int) -> bool:
        return self.period > 0 and done % self.period == 0

    def _evaluate(self, done: int) -> None:
        results: dict[str, Any] = {}
        try:
            with self.stop.at_once():
                results = self.evaluate(done)
        except Interrupted:
            logger.warning("Stopped in an evaluation; continue with the same command, resume=true")
            raise
        except OSError as error:
            if self.checkpoints.on_error == "stop":
                raise
            logger.error("The results of the evaluation cannot be written: %s", error)
        figures = results.get("metrics", {})
        if self.record is not None:
            self.record.figures(done - 1, figures, results.get("details", Details()))
        self.checkpoints.evaluated(figures)
        comm.synchronize()


def start_loggers(
    loggers: Loggers,
    folder: Path,
    mode: str,
    *,
    start: int = 0,
    history: Sequence[Figures] = (),
    modules: Sequence[tuple[str, str, int, int]] = (),
) -> None:
    """Tell loggers of the run in a folder, with what is recorded there; see `Run`."""
    if loggers:
        loggers.start(Run(folder, mode, start, history, modules, read_state(folder)))


def tell_of_figures(
    loggers: Mapping[str, Logger] | None,
    folder: Path,
    mode: str,
    figures: Figures,
    pictures: Sequence[Path],
) -> None:
    """Tell loggers of a run that is over, with nothing but figures."""
    listening = Loggers(loggers)
    start_loggers(listening, folder, mode)
    listening.measured(figures, pictures)
    listening.finish("finished", 0)


def how_it_ended(error: BaseException | None) -> tuple[str, int]:
    """The status and the exit code of a run that raised `error`, or nothing."""
    if error is None:
        return "finished", 0
    if isinstance(error, KeyboardInterrupt):
        saved = isinstance(error, Interrupted)
        return "stopped", ExitCode.SAVED if saved else ExitCode.INTERRUPTED
    diverged = isinstance(error, FloatingPointError)
    return "failed", ExitCode.DIVERGED if diverged else ExitCode.ERROR
