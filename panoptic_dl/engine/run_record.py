"""What a run writes of its figures: metrics.json, the console, and what its loggers are told."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from detectron2.engine import HookBase

from panoptic_dl.loggers.interface import Details, Figures, is_evaluation
from panoptic_dl.loggers.several import Loggers
from panoptic_dl.whole_files import write_text

from . import memory
from .console import ConsoleWriter

logger = logging.getLogger(__name__)

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
