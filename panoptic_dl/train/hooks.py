"""Hooks of a training run: console and metrics.json, checkpoints, evaluations, the schedule."""

import copy
import json
import logging
import math
import os
import signal
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from panoptic_dl.core.environment import host_memory, peak_host_memory
from panoptic_dl.core.files import parse_json, write_text
from panoptic_dl.core.parallel import Progress, shows_bars
from panoptic_dl.core.run_folder import METRICS, how_to_continue
from panoptic_dl.core.settings import TrainSettings
from panoptic_dl.evaluation.metrics import is_better
from panoptic_dl.launch.signals import Interrupted, StopRequest
from panoptic_dl.loggers.base import Details, Loggers, Metrics, is_evaluation
from panoptic_dl.train.checkpoint import SPLIT, RunCheckpoints, writing

logger = logging.getLogger(__name__)


class ScheduleHook(hooks.LRScheduler):
    """Steps the schedule and logs the learning rate.

    A schedule is stepped after every iteration; `ReduceLROnPlateau` after every evaluation, with
    the metric that `checkpoint.best` names. A resumed run has the options of the config, which may
    be others than before (a longer run, another rate): the new schedule is stepped to where it
    would be now, and to the last bit where nothing was changed.
    """

    def __init__(self, optimizer: Optimizer, schedule: Any) -> None:
        super().__init__(optimizer, schedule)
        self.waits_for_metric = isinstance(schedule, ReduceLROnPlateau)
        self._metrics: list[float] = []  # that the schedule was given
        # What the config makes, before the first step.
        self._options = copy.deepcopy([{**g, "params": None} for g in optimizer.param_groups])

    def state_dict(self) -> dict[str, Any]:
        kind = type(self.scheduler.optimizer).__name__
        return {"optimizer": kind, "metrics": list(self._metrics)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called after the optimizer's; ValueError where that was of another kind."""
        optimizer = self.scheduler.optimizer
        own = type(optimizer).__name__
        kind = state_dict.get("made", state_dict).get("optimizer", own)  # of earlier versions
        if kind != own:
            raise ValueError(f"it is of an optimizer of another kind, {kind}")
        self._metrics = list(state_dict.get("metrics", ()))
        for group, options in zip(optimizer.param_groups, self._options, strict=True):
            group |= copy.deepcopy(options) | {"params": group["params"]}

    def before_train(self) -> None:
        super().before_train()
        with warnings.catch_warnings():  # the optimizer has made these steps, before
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for metric in self._metrics if self.waits_for_metric else ():
                self.scheduler.step(metric)
            for _ in range(0 if self.waits_for_metric else self.trainer.start_iter):
                self.scheduler.step()

    def after_step(self) -> None:
        if not self.waits_for_metric:
            super().after_step()
            return
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)

    def after_evaluation(self, metric: float) -> None:
        """Step a schedule that waits for a metric; called by every process, with the same one."""
        if self.waits_for_metric:
            self._metrics.append(metric)
            self.scheduler.step(metric)


class StoppedEarly(BaseException):  # no Exception, which Detectron2 would log as an error
    """Evaluations have not become better for long enough: the training is done."""


class EarlyStop(HookBase):
    """Counts the evaluations since the best one; the count is in checkpoints.

    `patience` evaluations in a row without a better `metric` (None: that of `checkpoint.best`) end
    the training.
    """

    def __init__(self, metric: str | None = None, patience: int | None = None) -> None:
        self.metric, self.patience = metric, patience
        self.is_over = False
        self._metrics: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": list(self._metrics)} if self.patience else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._metrics = list(state_dict["metrics"])

    def after_evaluation(self, name: str, metric: float) -> None:
        """Called by every process, with the same metric and its name."""
        if self.patience:
            self._metrics.append(metric)
            best = 0
            for i, value in enumerate(self._metrics):
                before = self._metrics[best]
                if before != before or is_better(name, value, before):  # NaN is never better
                    best = i
            self.is_over = len(self._metrics) - 1 - best >= self.patience


class MetricsWriter(HookBase):
    """Writes metrics.json: every `log_period`-th step, and every evaluation, as a line of its own.

    The same goes to loggers, and to the console: on a terminal below a bar, else as a line.
    Register it before the hook that saves: a step's line is on the disk when its checkpoint is, so
    a run that is killed and goes on has each line once. For the main process.
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
        best: Callable[[], str] = str,
    ) -> None:
        """`start` is the first iteration to come: lines of it or later ones are dropped.

        On a full disk, `on_error`, stop | continue. `device`, whose memory is recorded, is this
        process's; `best` tells the best metric so far. Raises OSError.
        """
        self.file, self.on_error = run_dir / METRICS, on_error
        self._settings, self._loggers, self._device = settings, loggers, device
        self._best = best
        self._bar = Progress(
            "training", settings.iterations, unit="iterations", done=start, shown=shows_bars()
        )
        self._written = start - 1
        self.file.touch()
        _keep_lines(self.file, lambda line: line["iteration"] < start)

    def history(self) -> list[Metrics]:
        """The lines so far."""
        return [parse_json(line, self.file.name) for line in self.file.read_text().splitlines()]

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        self._bar.add(1)
        if done % self._settings.log_period == 0 or done == self.trainer.max_iter:
            self._write_step()

    def after_train(self) -> None:
        """Write the last step's metrics, when training ended between two lines."""
        self._bar.close()
        self.on_error = "continue"  # must not hide the error that ended training
        # Of the last whole step: an error may have ended the one after it, whose line is not there.
        _, last = self.trainer.storage.latest().get("total_loss", (None, self._written))
        if last > self._written:
            self._write_step()

    def write_evaluation(
        self, iteration: int, metrics: Mapping[str, float], details: Details
    ) -> None:
        """Write the metrics after `iteration`, in place of an earlier evaluation's there."""

        def is_other(line: dict[str, float]) -> bool:
            return line["iteration"] != iteration or not is_evaluation(line)

        with writing("the metrics to", self.file, self.on_error):
            _keep_lines(self.file, is_other)
        self._write(iteration, metrics)
        self._loggers.evaluation(iteration, metrics, details)

    def _write_step(self) -> None:
        latest = self.trainer.storage.latest()
        _, iteration = latest["total_loss"]
        metrics = {name: value for name, (value, at) in latest.items() if at == iteration}
        metrics |= self._speed_and_memory(iteration)
        self._say(iteration + 1, metrics)
        self._write(iteration, metrics)
        self._loggers.step(iteration, metrics)
        self._written = iteration

    def _say(self, done: int, metrics: Mapping[str, float]) -> None:
        """Show medians of losses and of waiting since the last line, rates, memory, the best."""
        histories, period = self.trainer.storage.histories(), self._settings.log_period
        losses = [name for name in histories if name.startswith("loss_") or name == "total_loss"]
        parts = [f"{n.removeprefix('loss_')} {histories[n].median(period):.4g}" for n in losses]
        parts.append(f"lr {metrics.get('lr', math.nan):.3g}")
        if "images_per_s" in metrics:
            parts.append(f"{metrics['images_per_s']:.3g} images/s")
        parts.append(f"data {histories['data_time'].median(period):.3f} s")
        parts.append(f"memory {metrics.get('device_memory_MiB', peak_host_memory()):.0f} MiB")
        self._bar.note = "  ".join(filter(None, [*parts, self._best()]))
        text = f"iteration {done}/{self.trainer.max_iter}  {self._bar.note}  ETA {self._bar.left()}"
        logger.info(text, extra={"is_drawn": self._bar.shown})

    def _speed_and_memory(self, iteration: int) -> dict[str, float]:
        """Images a second of the steps since the last line, without what lies between, and MiB."""
        found = {"host_memory_MiB": host_memory()}
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
        with writing("the metrics to", self.file, self.on_error), self.file.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def _keep_lines(file: Path, is_wanted: Callable[[dict[str, float]], bool]) -> None:
    """Drop the other lines of a metrics.json, and one that was torn."""
    lines = file.read_text().splitlines(keepends=True)
    kept = []
    for line in lines:
        try:
            if line.endswith("\n") and is_wanted(parse_json(line, file.name)):
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
        if done % self.period == 0:
            self.trainer.settle()
        number = self.trainer.agreed_signal
        if done == last:  # after which nothing is lost by going on
            self.checkpoints.save(self.trainer.iter, final=True, must=True)
        elif number:
            self.checkpoints.save(self.trainer.iter, must=True)
            logger.warning(
                f"Stopped by {signal.Signals(number).name} after iteration {done} of {last}; "
                f"continue with the same command and: {how_to_continue(self.checkpoints.folder)}"
            )
            raise Interrupted(number)
        elif done % self.period == 0:
            self.checkpoints.save(self.trainer.iter)


@dataclass(eq=False)
class EvalHook(HookBase):
    """Evaluates every `period` iterations and at the end, each time a checkpoint just saved.

    So a signal may end an evaluation at once; the resumed run makes up for it. `model_best` is the
    checkpoint with the best metric so far.
    """

    evaluate: Callable[[int], dict[str, Any]]  # of iterations done; {} but on the main process
    checkpoints: RunCheckpoints
    stop: StopRequest
    schedule: ScheduleHook  # gets the metric of `checkpoint.best`
    early_stop: EarlyStop  # gets its own
    writer: MetricsWriter | None  # of the main process
    settings: TrainSettings  # `eval_period` and `eval_at_end`
    results: dict[str, Any] = field(default_factory=dict, init=False)

    def before_train(self) -> None:
        """Repeat an evaluation that was cut short.

        The checkpoint was written before it: the schedule gets the metrics of one that was not.
        """
        done = self.trainer.start_iter
        if done >= self.trainer.max_iter:
            return
        metrics = comm.all_gather(self.checkpoints.metrics())[0]
        if not done or not self._is_due(done):
            return
        if metrics is None:
            logger.info("The evaluation after iteration %d had not come to its end", done)
            self._evaluate(done)
        else:
            self._step_schedule(metrics)
            if self.early_stop.is_over:
                self._evaluate(done)  # for its results
        self._stop_early(done)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done < self.trainer.max_iter and self._is_due(done):
            self.trainer.settle()
            self.checkpoints.save(self.trainer.iter)
            self._evaluate(done)
            self._stop_early(done)

    def _stop_early(self, done: int) -> None:
        if self.early_stop.is_over:
            self.checkpoints.save(done - 1, final=True, must=True)
            logger.warning(
                f"Stopped after iteration {done} of {self.trainer.max_iter}: "
                f"{self.early_stop.patience} evaluations in a row have not become better "
                "(train.early_stop)"
            )
            raise StoppedEarly

    def after_train(self) -> None:
        all_done = self.trainer.iter >= self.trainer.max_iter
        if self.settings.eval_at_end and all_done:
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
            logger.warning(
                "Stopped in an evaluation; continue with the same command and: %s",
                how_to_continue(self.checkpoints.folder),
            )
            raise
        except OSError as error:
            if self.checkpoints.settings.on_error == "stop":
                raise
            logger.error("The results of the evaluation cannot be written: %s", error)
        metrics = self.results.get("metrics", {})
        if self.writer is not None:
            self.writer.write_evaluation(done - 1, metrics, self.results.get("details", Details()))
        split = {key: self.results[key] for key in SPLIT if key in self.results}
        self.checkpoints.note_metrics(metrics, split)
        if self.results:
            self.results |= {"best": self.checkpoints.best(), "iterations": done}
        self._step_schedule(metrics)

    def _step_schedule(self, metrics: Mapping[str, float]) -> None:
        """Called by every process; those of the main one count."""
        metrics = comm.all_gather(dict(metrics))[0]
        if metrics:
            name = self.checkpoints.settings.best or next(iter(metrics))
            self.schedule.after_evaluation(metrics[name])
            name = self.early_stop.metric or name
            self.early_stop.after_evaluation(name, metrics[name])
