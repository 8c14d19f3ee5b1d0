"""mode=train: Detectron2's trainer and hooks, checkpoints, evaluation on the way and at the end.

The learning rate over the iterations, also of a resumed run.

The optimizer with the recipe's parameter groups.
"""

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from panoptic_dl.core.classes import Classes, record_classes
from panoptic_dl.core.files import folder_lock
from panoptic_dl.core.settings import CheckpointSettings, TrainSettings
from panoptic_dl.evaluation.metrics import METRIC_NAMES
from panoptic_dl.launch.signals import StopOnSignal, StopRequest
from panoptic_dl.loggers.base import Logger, Loggers, ending, modules
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.modes.evaluate import Evaluation
from panoptic_dl.train.checkpoint import RunCheckpoints
from panoptic_dl.train.ema import UpdateAverage, WeightAverage, evaluate_both
from panoptic_dl.train.fast_dev_run import fresh_folder, shortened
from panoptic_dl.train.hooks import (
    EvaluateOnTheWay,
    RunRecord,
    SaveOnTheWay,
    how_it_ended,
    start_loggers,
)
from panoptic_dl.train.nonfinite import NonFiniteLosses
from panoptic_dl.train.precision import Performance, performing, prepare_model
from panoptic_dl.train.recipe import Recipe, report_deviations, scale_learning_rate
from panoptic_dl.train.trainer import BadSamples, Loader, Trainer
from panoptic_dl.weights.load import start_from


def check_length(schedule: Any, iterations: int) -> None:
    """Raise ValueError where a schedule ends before training: a power of less than 0 is none."""
    length = getattr(schedule, "max_iters", iterations)
    if length < iterations:
        raise ValueError(
            f"schedule.max_iters={length} is shorter than train.iterations={iterations}: leave it "
            "out, and it is as long"
        )


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


logger = logging.getLogger(__name__)


def train(
    *,
    device: str,
    model: nn.Module,
    loader: Loader,
    optimizer: Callable[[nn.Module], Optimizer],
    schedule: Callable[[Optimizer], Any],
    evaluation: Evaluation,
    weights: str | None,
    resume: bool | str,
    run_dir: str,
    settings: dict[str, Any],
    checkpoint: dict[str, Any],
    recipe: dict[str, Any],
    max_bad_samples: int = 0,
    pretrained: dict[str, Any] | None = None,
    image_format: str = "RGB",
    classes: Classes | None = None,
    loggers: dict[str, Logger] | None = None,
) -> dict[str, Any]:
    """Train `model` and evaluate it; called by every process of the run.

    Args:
        device: `cuda` or `cpu`.
        loader: endless micro-batches of this process, in Detectron2's input format.
        optimizer, schedule: wait for the model, and for the optimizer.
        weights: file to start from; a whole model or a backbone.
        resume: True continues from the newest complete checkpoint in `run_dir`; `auto` does if
            there is one.
        run_dir: checkpoints, metrics.json, results, pictures and what loggers write go there.
        settings: fields of `TrainSettings`.
        checkpoint: fields of `CheckpointSettings`.
        recipe: fields of `Recipe`: what is meant, to be compared with what is done.
        max_bad_samples: images that cannot be read before the run gives up; see `BadSamples`.
        pretrained: the file that the recipe starts from, for whoever gives no weights.
        image_format: channel order of the images, RGB or BGR.
        classes: of the dataset, which `run_dir/classes.json` keeps.
        loggers: are told what metrics.json is told and more, by their names; see `Loggers`.

    Returns:
        The last evaluation's results, on the main process; {} elsewhere.

    Raises:
        ValueError: settings that cannot be; nothing to resume, or a run that would be overwritten.
        FloatingPointError: a loss is not finite.
        Interrupted: a signal asked to stop; the state is saved.
        OSError: a checkpoint cannot be written.
    """
    numbers, saving = TrainSettings(**settings), CheckpointSettings(**checkpoint)
    meant = Recipe(**recipe)
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume={resume} is unknown; choose true, false or auto")
    if saving.best is not None and saving.best.removeprefix("ema/") not in METRIC_NAMES:
        raise ValueError(
            f"checkpoint.best={saving.best} is no figure; choose one of {', '.join(METRIC_NAMES)}"
        )
    if numbers.fast_dev_run:
        logger.warning("fast_dev_run: a few iterations of everything, no results")
        numbers, saving = shortened(numbers, saving)
        resume, run_dir, loggers = False, fresh_folder(run_dir), None
        evaluation = partial(evaluation, rehearsal=True)  # type: ignore[assignment]
    folder, listening = Path(run_dir), Loggers(loggers)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device)
    if numbers.activation_checkpointing:
        blocks = recompute_activations(model.get_submodule("backbone"))
        logger.info("Activations inside %d blocks of the backbone are computed twice", blocks)
    performance = Performance(numbers.precision, numbers.channels_last, numbers.compile)
    performance.check(torch.device(device))
    prepare_model(model, performance)
    wrapped = model
    if comm.get_world_size() > 1:
        wrapped = DistributedDataParallel(
            model, device_ids=[comm.get_local_rank()] if device == "cuda" else None
        )
    average = None if numbers.ema is None else WeightAverage(model, numbers.ema)
    built = optimizer(model)
    if numbers.auto_scale_lr:
        factor = scale_learning_rate(built, meant, numbers.batch_size)
        logger.warning("train.auto_scale_lr: the learning rate is multiplied by %.4g", factor)
    report_deviations(meant, numbers, model, built, loader.accumulate)
    stop = StopRequest()
    trainer = Trainer(
        wrapped,
        loader,
        built,
        precision=performance.autocast,
        device=torch.device(device),
        stop=stop,
        nonfinite=NonFiniteLosses(folder, numbers.on_nonfinite, numbers.max_nonfinite_skips),
        bad_samples=BadSamples(folder, max_bad_samples),
        clip_norm=numbers.clip_norm,
    )
    checkpoints = RunCheckpoints(
        run_dir,
        model=model,
        parts={"trainer": trainer} | ({} if average is None else {"ema": average}),
        kept=saving.kept,
        best=saving.best,
        on_error=saving.on_error,
        loggers=listening,
    )
    results: dict[str, Any] = {}

    def evaluate(iterations: int) -> dict[str, Any]:
        results.clear()
        source = {"iteration": iterations}
        results.update(evaluate_both(evaluation, model, average, folder, source=source))
        return results

    # These first: the schedule's state is in checkpoints.
    rates = schedule(built)
    check_length(rates, numbers.iterations)
    trainer.register_hooks([hooks.IterationTimer(), ScheduleHook(built, rates)])
    if average is not None:
        trainer.register_hooks([UpdateAverage(average, lambda: trainer.skipped)])
    with contextlib.ExitStack() as held:
        held.enter_context(stop.listen())
        held.enter_context(ending(listening, how_it_ended))
        with stop.at_once():  # nothing is lost yet
            record = None
            if comm.is_main_process():
                held.enter_context(folder_lock(folder))
                checkpoints.files.remove_leftovers()
            fresh = partial(start_from, model, weights, pretrained, image_format)
            start = _start(checkpoints, resume, numbers.iterations, fresh)
            if comm.is_main_process():
                if classes is not None:
                    record_classes(classes, folder)
                record = RunRecord(
                    folder,
                    start=start,
                    iterations=numbers.iterations,
                    batch_size=numbers.batch_size,
                    log_period=numbers.log_period,
                    on_error=saving.on_error,
                    loggers=listening,
                    device=torch.device(device),
                )
                start_loggers(
                    listening,
                    folder,
                    "train",
                    start=start,
                    history=record.history(),
                    modules=modules(model),
                )
        on_the_way = SaveOnTheWay(checkpoints, saving.period)
        evaluating = EvaluateOnTheWay(
            evaluate,
            checkpoints,
            stop,
            record,
            period=numbers.eval_period,
            at_end=numbers.eval_at_end,
        )
        stopping = StopOnSignal(on_the_way.save_now, run_dir)
        # The record comes first: no checkpoint without its line.
        trainer.register_hooks([record, on_the_way, stopping, evaluating])
        if start < numbers.iterations:
            logger.info("Training from iteration %d to %d", start, numbers.iterations)
        else:
            logger.info("All %d iterations are done already; evaluating", numbers.iterations)
        try:
            with performing(performance):
                trainer.train(start, numbers.iterations)
        finally:
            trainer.release_loader()
            if record is not None:
                record.close()
    if numbers.fast_dev_run:
        checkpoints.restore()
        logger.info("Read the last checkpoint again. fast_dev_run found nothing wrong")
    if average is not None and comm.is_main_process():
        logger.info("Saved the moving average of the weights: %s", average.save(run_dir))
    return results


def _start(
    checkpoints: RunCheckpoints,
    resume: bool | str,
    iterations: int,
    load_start: Callable[[], None],
) -> int:
    """Bring weights and state into place; return the iteration to start with."""
    there = comm.all_gather(checkpoints.exist())[0]
    if resume is True or (resume == "auto" and there):
        start = checkpoints.restore() + 1
        if start > iterations:
            raise ValueError(
                f"train.iterations={iterations}, but {checkpoints.files.folder} has {start} "
                f"behind it: resume with train.iterations={start} or more"
            )
        return start
    if there:
        raise ValueError(
            f"{checkpoints.files.folder} holds a run already; continue it with resume=true, or "
            "name another run_dir"
        )
    load_start()
    return 0


def build_optimizer(
    model: nn.Module,
    *,
    optimizer: Callable[..., Optimizer],
    lr: float,
    weight_decay: float,
    weight_decay_norm: float | None,
    weight_decay_bias: float | None,
    bias_lr_factor: float = 1.0,
) -> Optimizer:
    """Make an optimizer whose groups follow Detectron2's rules.

    Args:
        model: its parameters that require gradients are optimised.
        optimizer: a `torch.optim` class (or partial) that takes parameter groups and `lr`.
        lr: base learning rate.
        weight_decay: of all weights that the next two do not single out.
        weight_decay_norm: of the scale and shift of normalisation layers; None: as the others.
        weight_decay_bias: of biases; None: as the others.
        bias_lr_factor: learning rate of biases over `lr`.
    """
    groups = get_default_optimizer_params(
        model,
        base_lr=lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        weight_decay_bias=weight_decay_bias,
        bias_lr_factor=bias_lr_factor,
    )
    return optimizer(groups, lr=lr)
