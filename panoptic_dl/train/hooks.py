"""Hooks of a training run: console and metrics.json, checkpoints, evaluations, the schedule."""

import datetime
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tqdm import tqdm

from panoptic_dl.core import memory
from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import METRICS
from panoptic_dl.core.settings import TrainSettings
from panoptic_dl.launch.signals import Interrupted, StopRequest
from panoptic_dl.loggers.base import Details, Loggers, Metrics, is_evaluation
from panoptic_dl.train.checkpoint import RunCheckpoints, writing

logger = logging.getLogger(__name__)


class ScheduleHook(hooks.LRScheduler):
    """Detectron2's hook, which steps the schedule every iteration and logs the learning rate.

    A resumed run takes the position in the schedule from the checkpoint, and everything else
    (length, power, warm-up, base rate) from its config, so that a run can be made longer.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.scheduler.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.scheduler.last_epoch = state_dict["last_epoch"]

    def before_train(self) -> None:
        """Set the first learning rate; that of a checkpoint belongs to the schedule it had."""
        super().before_train()
        rates = self.scheduler.get_lr()
        for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class _Console:
    """Prints losses, learning rate, seconds per iteration, data time, memory and time left.

    Losses and times are medians over the iterations since the last line. On a terminal a bar is
    redrawn in place, elsewhere lines are logged.
    """

    def __init__(self, max_iter: int, period: int) -> None:
        self.max_iter, self.period = max_iter, period
        self.bar: tqdm | None = None
        self.last: tuple[int, float] | None = None  # iterations done, and when

    def write(self, storage: EventStorage) -> None:
        done, now = storage.iter + 1, time.perf_counter()
        histories = storage.histories()
        parts = [
            f"{name.removeprefix('loss_')} {history.median(self.period):.4g}"
            for name, history in histories.items()
            if name.startswith("loss_") or name == "total_loss"
        ]
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        if self.last is not None:
            seconds = (now - self.last[1]) / (done - self.last[0])
            parts.append(f"{seconds:.3f} s/iter")
            parts.append(f"data {histories['data_time'].median(self.period):.3f} s")
            left = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
            parts.append(f"ETA {left}")
        self.last = (done, now)
        gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() / 2**20
        parts.append(f"memory {gpu or memory.peak_host():.0f} MiB")
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(total=self.max_iter, initial=done, unit="it")
            self.bar.n = done
            self.bar.set_postfix_str("  ".join(parts))
        else:
            logger.info("iteration %d/%d  %s", done, self.max_iter, "  ".join(parts))


class MetricsWriter(HookBase):
    """Writes metrics.json: every `log_period`-th step, and every evaluation, as a line of its own.

    The same goes to the console and to loggers. Register it before the hook that saves: a step's
    line is on the disk when its checkpoint is, so a run that is killed and goes on has each line
    once. For the main process.
    """

    def __init__(
        self,
        run_dir: Path,
        settings: TrainSettings,
        *,
        start: int,
        on_error: str,
        loggers: Loggers,
        device: torch.device,
    ) -> None:
        """
        Args:
            settings: `iterations`, `batch_size` and `log_period`.
            start: first iteration to come; lines of it or later ones, from an attempt that was
                ended and goes on from a checkpoint, are dropped.
            on_error: a full disk stops the run | continue.
            device: whose memory is recorded; of this process.

        Raises:
            OSError: the files cannot be written.
        """
        self.file, self.on_error = run_dir / METRICS, on_error
        self._settings, self._loggers, self._device = settings, loggers, device
        self._console = _Console(settings.iterations, settings.log_period)
        self._written = start - 1
        self.file.touch()
        _keep_lines(self.file, lambda line: line["iteration"] < start)

    def history(self) -> list[Metrics]:
        """The lines so far."""
        return [json.loads(line) for line in self.file.read_text().splitlines()]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._settings.log_period == 0 or done == self.trainer.max_iter:
            self._console.write(self.trainer.storage)
            self._write_step()

    def after_train(self) -> None:
        """Write the last step's metrics, when training ended between two lines."""
        if self._console.bar is not None:
            self._console.bar.close()
        self.on_error = "continue"  # must not hide the error that ended training
        last = min(self.trainer.iter, self.trainer.max_iter - 1)
        if last > self._written and "total_loss" in self.trainer.storage.latest():
            self._write_step()

    def write_evaluation(
        self, iteration: int, metrics: Mapping[str, float], details: Details
    ) -> None:
        """Write the metrics after `iteration`, in place of an earlier evaluation's there."""

        def is_other(line: dict[str, float]) -> bool:
            return line["iteration"] != iteration or not is_evaluation(line)

        with writing(f"the metrics to {self.file}", self.on_error):
            _keep_lines(self.file, is_other)
        self._write(iteration, metrics)
        self._loggers.evaluation(iteration, metrics, details)

    def _write_step(self) -> None:
        latest = self.trainer.storage.latest()
        iteration = max(at for _, at in latest.values())
        metrics = {name: value for name, (value, at) in latest.items() if at == iteration}
        metrics |= self._speed_and_memory(iteration)
        self._write(iteration, metrics)
        self._loggers.step(iteration, metrics)
        self._written = iteration

    def _speed_and_memory(self, iteration: int) -> dict[str, float]:
        """Images a second over the steps since the last line, MiB of this process and its GPU.

        The time between steps, such as that of evaluations and checkpoints, is not counted.
        """
        found = {"host_memory_MiB": memory.host()}
        times = self.trainer.storage.histories().get("time")
        if times is not None:
            count = min(iteration - self._written, len(times.values()))
            seconds = sum(value for value, _ in times.values()[-count:]) / max(count, 1)
            if seconds > 0:
                found["images_per_s"] = self._settings.batch_size / seconds
        if self._device.type == "cuda":
            found["device_memory_MiB"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return found

    def _write(self, iteration: int, metrics: Mapping[str, float]) -> None:
        line = json.dumps({**metrics, "iteration": iteration}, sort_keys=True)
        with writing(f"the metrics to {self.file}", self.on_error), self.file.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _keep_lines(file: Path, is_wanted: Callable[[dict[str, float]], bool]) -> None:
    """Drop the other lines of a metrics.json, and one that was torn."""
    lines = file.read_text().splitlines(keepends=True)
    kept = []
    for line in lines:
        try:
            if line.endswith("\n") and is_wanted(json.loads(line)):
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            logger.warning("Dropped a torn line of %s: %s", file, line[:80])
    if kept != lines:
        write_text(file, "".join(kept))


class CheckpointHook(HookBase):
    """Saves a checkpoint every `period` iterations, after the last, and to stop for a signal."""

    def __init__(self, checkpoints: RunCheckpoints) -> None:
        self.checkpoints, self.period = checkpoints, checkpoints.settings.period

    def before_train(self) -> None:
        if self.trainer.start_iter >= self.trainer.max_iter:  # killed before it was named so
            self.checkpoints.name_final()

    def after_step(self) -> None:
        done, last = self.trainer.iter + 1, self.trainer.max_iter
        number = self.trainer.agreed_signal
        if done == last:  # after which nothing is lost by going on
            self.checkpoints.save(self.trainer.iter, final=True, must=True)
        elif number:
            self.checkpoints.save(self.trainer.iter, must=True)
            logger.warning(
                "Stopped by %s after iteration %d of %d; continue with the same command and: "
                "run_dir=%s resume=true",
                signal.Signals(number).name,
                done,
                last,
                self.checkpoints.folder,
            )
            raise Interrupted(number)
        elif done % self.period == 0:
            self.checkpoints.save(self.trainer.iter)


class EvalHook(HookBase):
    """Evaluates every `period` iterations and at the end, each time a checkpoint just saved.

    So a signal may end an evaluation at once; the resumed run makes up for it. `model_best` is the
    checkpoint with the best metric so far.

    Attributes:
        results: of the last evaluation; {} but on the main process.
    """

    def __init__(
        self,
        evaluate: Callable[[int], dict[str, Any]],
        checkpoints: RunCheckpoints,
        stop: StopRequest,
        writer: MetricsWriter | None,
        settings: TrainSettings,
    ) -> None:
        """
        Args:
            evaluate: from the iterations done to results, with `metrics`; {} but on the main
                process.
            writer: of the main process.
            settings: `eval_period` and `eval_at_end`.
        """
        self.evaluate, self.checkpoints, self.stop = evaluate, checkpoints, stop
        self.writer, self.settings = writer, settings
        self.results: dict[str, Any] = {}

    def before_train(self) -> None:
        """Repeat an evaluation that was cut short."""
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
        if (
            self.settings.eval_at_end and self.trainer.iter >= self.trainer.max_iter
        ):  # all steps were done
            self._evaluate(self.trainer.max_iter)

    def _is_due(self, done: int) -> bool:
        period = self.settings.eval_period
        return period > 0 and done % period == 0

    def _evaluate(self, done: int) -> None:
        self.results = {}
        try:
            with self.stop.at_once():
                self.results = self.evaluate(done)
        except Interrupted:
            logger.warning("Stopped in an evaluation; continue with the same command, resume=true")
            raise
        except OSError as error:
            if self.checkpoints.settings.on_error == "stop":
                raise
            logger.error("The results of the evaluation cannot be written: %s", error)
        metrics = self.results.get("metrics", {})
        if self.writer is not None:
            self.writer.write_evaluation(done - 1, metrics, self.results.get("details", Details()))
        self.checkpoints.note_metrics(metrics)
        comm.synchronize()
