"""mode=train: settings, model, optimizer, schedule, trainer, hooks, run."""

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import create_ddp_model, hooks
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from panoptic_dl.core.classes import Classes, record_classes
from panoptic_dl.core.errors import make_part
from panoptic_dl.core.files import folder_lock, sha256_of
from panoptic_dl.core.settings import CheckpointSettings, TrainSettings
from panoptic_dl.evaluation.metrics import METRIC_NAMES, is_better
from panoptic_dl.launch.session import accept, note
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.loggers.base import Logger, Loggers, Run
from panoptic_dl.train.checkpoint import RunCheckpoints
from panoptic_dl.train.ema import FOLDER, UpdateAverage, WeightAverage, evaluate_both
from panoptic_dl.train.hooks import CheckpointHook, EvalHook, MetricsWriter, ScheduleHook
from panoptic_dl.train.precision import check_precision, prepare_training, training_arithmetic
from panoptic_dl.train.recipe import (
    Recipe,
    find_differences,
    log_differences,
    scale_learning_rate,
)
from panoptic_dl.train.trainer import Loader, Trainer
from panoptic_dl.weights.load import start_from

# Of train.fast_dev_run
FAST_ITERATIONS, FAST_IMAGES = 4, 4
FAST_FOLDER = "fast_dev_run"  # below the run's own, which stays free for the real run
OTHER_RECORDS = (
    "the training split has as many images as the checkpoint was trained on, but others (names, "
    "sizes, segments): resume with those"
)

logger = logging.getLogger(__name__)


def train(
    *,
    device: str,
    model: nn.Module,
    loader: Loader,
    optimizer: Callable[[nn.Module], Optimizer],
    schedule: Callable[[Optimizer], Any],
    evaluation: Callable[..., dict[str, Any]],
    weights: str | None,
    resume: bool | str,
    run_dir: str,
    settings: dict[str, Any],
    checkpoint: dict[str, Any],
    recipe: dict[str, Any],
    resume_changed: bool = False,
    pretrained: dict[str, Any] | None = None,
    image_format: str = "RGB",
    classes: Classes | None = None,
    loggers: dict[str, Logger] | None = None,
    find_unused_parameters: bool = False,
) -> dict[str, Any]:
    """Train `model` and evaluate it; called by every process of the run.

    With `settings["fast_dev_run"]` the run is short and leaves no results: it evaluates and saves
    in the middle and at the end, on few images, without loggers, in a folder of its own, whose last
    checkpoint is read again.

    Args:
        device: `cuda` or `cpu`.
        loader: endless micro-batches of this process, in Detectron2's input format.
        optimizer, schedule: make them for the model, and for the optimizer.
        evaluation: called as `evaluation(model, folder, source=...)`, such as an `Evaluation`;
            its `metric_names`, if it has any, are what `checkpoint["best"]` may be.
        weights: file to start from; a whole model or a backbone.
        resume: True continues from the newest complete checkpoint in `run_dir`; `auto` does if
            there is one.
        run_dir: gets checkpoints, metrics.json, results, pictures and the files of loggers.
        settings: fields of `TrainSettings`.
        checkpoint: fields of `CheckpointSettings`.
        recipe: fields of `Recipe`, with which the run is compared.
        resume_changed: continue on other images than the checkpoint was trained on.
        pretrained: the file that the recipe starts from, where no weights are given.
        image_format: channel order of the images, RGB or BGR.
        classes: of the dataset, for `run_dir/classes.json`.
        loggers: by their names; see `Loggers`.
        find_unused_parameters: allow parameters that take no part in the loss.

    Returns:
        The last evaluation's results, on the main process; {} elsewhere.

    Raises:
        ValueError: settings that cannot be; nothing to resume, or a run that would be overwritten.
        FloatingPointError: a loss is not finite.
        Interrupted: a signal asked to stop; the state is saved.
        OSError: a checkpoint cannot be written.
    """
    options, saving = TrainSettings(**settings), CheckpointSettings(**checkpoint)
    check_best(saving.best, evaluation, options.ema)
    published, place, folder = Recipe(**recipe), torch.device(device), Path(run_dir)
    if hasattr(evaluation, "check_folder"):
        evaluation.check_folder(folder)
    if options.fast_dev_run:
        logger.warning("fast_dev_run: a few iterations of everything, no results")
        # A schedule has no rate beyond its end.
        short = min(FAST_ITERATIONS, options.iterations)
        half = max(1, short // 2)
        options = replace(options, iterations=short, log_period=1, eval_period=half)
        options, saving = replace(options, eval_at_end=True), replace(saving, period=half)
        evaluation = partial(evaluation, limit=FAST_IMAGES)
        folder, resume, loggers = folder / FAST_FOLDER, False, None
        if comm.is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
        comm.synchronize()
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume={resume} is unknown; choose true, false or auto")
    check_precision("train.precision", options.precision, place)

    model.to(place)
    prepare_training(model, options)
    ids = [comm.get_local_rank()] if place.type == "cuda" else None
    optim = optimizer(model)
    wrapped = create_ddp_model(
        model,
        device_ids=ids,
        broadcast_buffers=False,  # the trainer does, after a step
        find_unused_parameters=find_unused_parameters,
    )
    if options.auto_scale_lr:
        factor = scale_learning_rate(optim, published, options.batch_size)
        logger.warning("train.auto_scale_lr: the learning rate is multiplied by %.4g", factor)
    log_differences(find_differences(published, options, model, optim, loader.accumulate))
    scheduler = make_schedule(schedule, optim, options, saving.best)

    stop = StopRequest()
    trainer = Trainer(
        wrapped,
        loader,
        optim,
        options,
        device=place,
        stop=stop,
        run_dir=folder,
        find_unused_parameters=find_unused_parameters,
    )
    # These first: the schedule's state is in checkpoints.
    rates = ScheduleHook(optim, scheduler)
    trainer.register_hooks([hooks.IterationTimer(), rates])
    parts, average = {"model": model, "trainer": trainer}, None
    if options.ema is not None:
        average = parts["ema"] = WeightAverage(model, options.ema)
        trainer.register_hooks([UpdateAverage(average)])
    listening = Loggers(loggers)
    checkpoints = RunCheckpoints(folder, saving, parts, listening)

    folder.mkdir(parents=True, exist_ok=True)
    is_main = comm.is_main_process()
    lock = folder_lock(folder) if is_main else contextlib.nullcontext()
    with stop.listen(), listening, lock:
        with stop.at_once():  # nothing is lost yet
            checkpoints.check_room(model, optim)
            facts: dict[str, Any] = {}  # for run.json

            def load_weights() -> None:
                file = start_from(model, weights, pretrained, image_format)
                if file is not None and is_main:
                    facts["started_from"] = {"file": file.name, "sha256": sha256_of(file)}

            start = _start(checkpoints, resume, options.iterations, load_weights)
            if start and loader.other_records:
                if not resume_changed:
                    raise ValueError(f"{OTHER_RECORDS}, or go on with these: resume_changed=true")
                logger.warning(OTHER_RECORDS)
            if is_main and classes is not None:
                record_classes(classes, folder)
            comm.synchronize()  # all processes have come here
            accept()
            if facts:
                note(**facts)
            writer = None
            if is_main:
                checkpoints.tidy(start)
                writer = MetricsWriter(
                    folder,
                    options,
                    start=start,
                    on_error=saving.on_error,
                    loggers=listening,
                    device=place,
                )
                listening.start(Run(folder, "train", start, writer.history(), model))
        evaluate = partial(evaluate_both, evaluation, model, average, folder)
        evaluator = EvalHook(evaluate, checkpoints, stop, rates, writer, options)
        # The writer comes first: no checkpoint without its line.
        trainer.register_hooks([writer, CheckpointHook(checkpoints), evaluator])
        with training_arithmetic(options):
            trainer.train(start, options.iterations)
        if options.fast_dev_run:
            checkpoints.restore()
            logger.info("Read the last checkpoint again. fast_dev_run found nothing wrong")
    if average is not None and comm.is_main_process():
        average.save(folder)
    return evaluator.results


def check_best(best: str | None, evaluation: Any, ema: float | None) -> None:
    """Raise ValueError where `checkpoint.best` is no metric that the evaluation will have.

    Args:
        best: the metric's name; None: the first of the evaluation.
        evaluation: has `metric_names`, else any metric is taken.
        ema: `train.ema`, with which there are the metrics of the average, too.
    """
    names = list(getattr(evaluation, "metric_names", METRIC_NAMES))
    if not names:
        raise ValueError(
            "the split that training evaluates has no ground truth: leave out dataset.test_split, "
            "and predict that split with mode=eval evaluation.save=panoptic when training is done"
        )
    if ema is not None:
        names += [f"{FOLDER}/{name}" for name in names]
    if best is not None and best not in names:
        without = " (of the average of the weights, which train.ema=0.9999 makes)"
        raise ValueError(
            f"checkpoint.best={best}{without * (ema is None and best.startswith(FOLDER))} is no "
            f"metric of this evaluation; choose one of {', '.join(names)}"
        )


def make_schedule(
    schedule: Callable[..., Any], optimizer: Optimizer, settings: TrainSettings, best: str | None
) -> Any:
    """Make a schedule, and those that it chains (`SequentialLR`, `ChainedScheduler`), and check it.

    Args:
        schedule: called with `optimizer=`; the functions in a list that it calls `schedulers`, too.
        settings: `iterations` and `eval_period`.
        best: the metric of `checkpoint.best`, which a `ReduceLROnPlateau` gets.

    Raises:
        ValueError: it cannot be made, ends before training, never gets the metric that it waits
            for, or takes that for better which is worse.
    """
    made = _with_chained(schedule, optimizer)
    for name in ("max_iters", "total_steps"):
        length = getattr(made, name, settings.iterations)
        if length < settings.iterations:
            raise ValueError(
                f"schedule.{name}={length} is shorter than train.iterations={settings.iterations}: "
                f"it must be as long, schedule.{name}={settings.iterations}"
            )
    if isinstance(made, ReduceLROnPlateau):
        if not settings.eval_period:
            raise ValueError(
                "schedule: ReduceLROnPlateau waits for the metric of evaluations during training: "
                "set train.eval_period, the iterations between them"
            )
        mode = "max" if is_better(best or "", 1, 0) else "min"
        if made.mode != mode:
            raise ValueError(
                f"schedule.mode={made.mode}, but of the metric {best or 'of checkpoint.best'} the "
                f"{'higher' if mode == 'max' else 'lower'} is better: schedule.mode={mode}"
            )
    return made


def _with_chained(schedule: Callable[..., Any], optimizer: Optimizer) -> Any:
    keys = schedule.keywords if isinstance(schedule, partial) else {}
    chained = {
        name: [_with_chained(each, optimizer) for each in value]
        for name, value in keys.items()
        if name == "schedulers"
    }
    return make_part(schedule, optimizer=optimizer, **chained)


def _start(
    checkpoints: RunCheckpoints,
    resume: bool | str,
    iterations: int,
    load_weights: Callable[[], None],
) -> int:
    """Load a checkpoint, or the weights to start from; return the iteration to start with."""
    exist = bool(comm.all_gather(checkpoints.names())[0])
    if exist and not resume:
        raise ValueError(
            f"{checkpoints.folder} holds a run already; continue it with resume=true, or "
            "name another run_dir"
        )
    start = 0
    if exist or resume is True:
        start = checkpoints.restore() + 1
        if start > iterations:
            raise ValueError(
                f"train.iterations={iterations}, but {checkpoints.folder} has {start} "
                f"behind it: resume with train.iterations={start} or more"
            )
    else:
        load_weights()
    if start < iterations:
        logger.info("Training from iteration %d to %d", start, iterations)
    else:
        logger.info("All %d iterations are done already; evaluating", iterations)
    return start


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
        model: its parameters that require gradients are optimized.
        optimizer: a `torch.optim` class (or partial) that takes parameter groups and `lr`.
        lr: base learning rate.
        weight_decay: of all weights but those of the next two.
        weight_decay_norm: of scale and shift of normalization layers; None: as the others.
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
    return make_part(optimizer, groups, lr=lr)
