"""mode=train: settings, model, optimizer, schedule, trainer, hooks, run."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from detectron2.engine import create_ddp_model, hooks
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params, reduce_param_groups
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from panoptic_dl.core.classes import Classes, record_classes
from panoptic_dl.core.errors import make_part
from panoptic_dl.core.files import folder_lock, sha256_of
from panoptic_dl.core.run_folder import note
from panoptic_dl.core.settings import CheckpointSettings, TrainSettings, require_value
from panoptic_dl.evaluation.metrics import METRIC_NAMES, is_better
from panoptic_dl.launch.session import accept
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.loggers.base import Logger, Loggers, Run
from panoptic_dl.train.checkpoint import RunCheckpoints
from panoptic_dl.train.ema import FOLDER, UpdateAverage, WeightAverage, evaluate_both
from panoptic_dl.train.hooks import (
    CheckpointHook,
    EarlyStop,
    EvalHook,
    MetricsWriter,
    ScheduleHook,
    StoppedEarly,
)
from panoptic_dl.train.precision import (
    check_precision,
    plain_precision,
    prepare_training,
    training_arithmetic,
)
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
    choice: Mapping[str, Any] | None = None,
    resume_changed: bool = False,
    pretrained: dict[str, Any] | None = None,
    weights_match: str = "strict",
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
        loader: endless micro-batches of this process, in Detectron2's input format.
        optimizer, schedule: make them for the model, and for the optimizer.
        evaluation: called as `evaluation(model, folder, source=...)`, such as an `Evaluation`;
            its `metric_names`, if it has any, are what `checkpoint["best"]` may be.
        weights, weights_match: what to start from, see `panoptic_dl.weights.load.load_to_train`.
        resume: True continues from the newest complete checkpoint in `run_dir`; `auto` does if
            there is one.
        settings, checkpoint, recipe: fields of `TrainSettings`, `CheckpointSettings`, `Recipe`.
        choice: options of the run, by group, which are compared with the recipe's.
        resume_changed: continue on other images than the checkpoint was trained on.
        pretrained: the file that the recipe starts from, where no weights are given.

    Returns the last evaluation's results, on the main process; {} elsewhere.

    Raises:
        ValueError: settings that cannot be; nothing to resume, or a run that would be overwritten.
        FloatingPointError: a loss is not finite.
        Interrupted: a signal asked to stop; the state is saved.
        OSError: a checkpoint cannot be written.
    """
    options, saving = TrainSettings(**settings), CheckpointSettings(**checkpoint)
    check_best(saving.best, evaluation, options.ema)
    early_stop = make_early_stop(options, evaluation)
    published, place, folder = Recipe(**recipe), torch.device(device), Path(run_dir)
    if hasattr(evaluation, "check_folder"):
        evaluation.check_folder(folder)
    if hasattr(evaluation, "settings"):  # its first call may be hours away
        plain_precision("evaluation.precision", evaluation.settings.precision, place)
    if options.fast_dev_run:
        logger.warning("fast_dev_run: a few iterations of everything, no results")
        # A schedule has no rate beyond its end.
        short = min(FAST_ITERATIONS, options.iterations)
        half = max(1, short // 2)
        options = replace(options, iterations=short, log_period=1, eval_period=half)
        options, saving = replace(options, eval_at_end=True), replace(saving, period=half)
        evaluation = partial(evaluation, limit=FAST_IMAGES)
        folder, loggers = folder / FAST_FOLDER, None
    check_precision("train.precision", options.precision, place)

    model.to(place)
    prepare_training(model, options)
    ids = [comm.get_local_rank()] if place.type == "cuda" else None
    optim = optimizer(model)
    wrapped = create_ddp_model(
        model,
        device_ids=ids,
        broadcast_buffers=False,  # the trainer does, after a step
        gradient_as_bucket_view=True,  # no second copy of the gradients
        find_unused_parameters=find_unused_parameters,
    )
    if options.auto_scale_lr:
        factor = scale_learning_rate(optim, published, options.batch_size)
        logger.warning("train.auto_scale_lr: the learning rate is multiplied by %.4g", factor)
    of_run = (options, model, optim, loader.accumulate, choice or {})
    log_differences(find_differences(published, *of_run))
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
    # These first: their states are in checkpoints.
    rates = ScheduleHook(optim, scheduler)
    trainer.register_hooks([hooks.IterationTimer(), rates, early_stop])
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
            started_from: list[Path | None] = []

            def load_weights() -> None:
                given = (weights, pretrained, image_format, weights_match, classes)
                started_from.append(start_from(model, *given))

            way = None if options.fast_dev_run else resume
            start = _start(checkpoints, way, options.iterations, load_weights)
            if start and loader.other_records:
                if not resume_changed:
                    raise ValueError(f"{OTHER_RECORDS}, or go on with these: resume_changed=true")
                logger.warning(OTHER_RECORDS)
            if is_main and options.fast_dev_run:  # nothing stays of a trial before
                shutil.rmtree(folder)
                folder.mkdir()
            if is_main and classes is not None:
                record_classes(classes, folder)
            comm.synchronize()  # all processes have come here
            accept()
            for file in filter(None, started_from if is_main else ()):
                note(folder, started_from={"file": file.name, "sha256": sha256_of(file)})
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
                    best=checkpoints.best,
                )
                listening.start(Run(folder, "train", start, writer.history(), model))
        evaluate = partial(evaluate_both, evaluation, model, average, folder)
        evaluator = EvalHook(evaluate, checkpoints, stop, rates, early_stop, writer, options)
        # The writer comes first: no checkpoint without its line.
        trainer.register_hooks([writer, CheckpointHook(checkpoints), evaluator])
        with training_arithmetic(options), contextlib.suppress(StoppedEarly):
            trainer.train(start, options.iterations)
        if options.fast_dev_run:
            checkpoints.restore()
            logger.info("Read the last checkpoint again. fast_dev_run found nothing wrong")
    if average is not None and comm.is_main_process():
        average.save(folder)
    return evaluator.results


def make_early_stop(settings: TrainSettings, evaluation: Any) -> EarlyStop:
    """The hook that `train.early_stop` asks for; ValueError where it cannot be."""
    options = settings.early_stop
    if options is None:
        return EarlyStop()
    if not {"patience"} <= options.keys() <= {"metric", "patience"}:
        raise ValueError(f"train.early_stop={options} must be such as {{metric: PQ, patience: 5}}")
    require_value("train.early_stop.patience", options["patience"], int, least=1)
    if not settings.eval_period:
        raise ValueError(
            "train.early_stop waits for evaluations during training: set train.eval_period, the "
            "iterations between them"
        )
    check_best(options.get("metric"), evaluation, settings.ema, "train.early_stop.metric")
    return EarlyStop(**options)


def check_best(
    best: str | None, evaluation: Any, ema: float | None, name: str = "checkpoint.best"
) -> None:
    """Raise ValueError where the setting `name` is no metric that the evaluation will have.

    `evaluation` has `metric_names`, else any metric is taken; with `ema` there are those of the
    average, too. None is the first metric.
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
            f"{name}={best}{without * (ema is None and best.startswith(FOLDER))} is no "
            f"metric of this evaluation; choose one of {', '.join(names)}"
        )


def make_schedule(
    schedule: Callable[..., Any], optimizer: Optimizer, settings: TrainSettings, best: str | None
) -> Any:
    """Make a schedule, and those that it chains (`SequentialLR`, `ChainedScheduler`), and check it.

    `schedule` is called with `optimizer=`; the functions in a list that it calls `schedulers`, too.
    `best` is the metric of `checkpoint.best`, which a `ReduceLROnPlateau` gets.

    Raises ValueError: it cannot be made, ends before training, never gets the metric that it waits
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
    resume: bool | str | None,
    iterations: int,
    load_weights: Callable[[], None],
) -> int:
    """Load a checkpoint, or the weights to start from; return the iteration to start with."""
    exist = bool(comm.all_gather(checkpoints.names())[0])
    if exist and resume is False:
        raise ValueError(
            f"{checkpoints.folder} holds a run already; continue it with resume=true, or "
            "name another run_dir"
        )
    start = 0
    if resume is not None and (exist or resume is True):
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


class WarmupSchedule(LRScheduler):
    """Warm-up, then the factor of a scheduler of fvcore, as in Detectron2's `LRMultiplier`.

    `LRMultiplier` fails after the last iteration with some of them.

    Args:
        multiplier: of the base rates, by the share of the training that is done.
        max_iters: iterations of the training.
        warmup_iters: iterations in which the rate rises from `warmup_factor` of the first one.
        warmup_method: "linear", or "constant".
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        multiplier: ParamScheduler,
        max_iters: int,
        warmup_iters: int,
        warmup_factor: float = 0.001,
        warmup_method: str = "linear",
    ) -> None:
        length = min(warmup_iters / max_iters, 1.0)
        if length == 1:
            logger.warning(
                f"schedule.warmup_iters={warmup_iters} takes all of the {max_iters} iterations: "
                "the rate never gets to optimizer.lr"
            )
        self._factor = WarmupParamScheduler(multiplier, warmup_factor, length, warmup_method)
        self.max_iters = max_iters
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        factor = self._factor(min(self.last_epoch, self.max_iters - 1) / self.max_iters)
        return [rate * factor for rate in self.base_lrs]


def build_optimizer(
    model: nn.Module,
    *,
    optimizer: Callable[..., Optimizer],
    lr: float,
    weight_decay: float,
    weight_decay_norm: float | None,
    weight_decay_bias: float | None,
    bias_lr_factor: float = 1.0,
    lr_factor: Mapping[str, float] | None = None,
    layer_decay: float | None = None,
) -> Optimizer:
    """Make an optimizer whose groups follow Detectron2's rules, and timm's.

    Args:
        model: its parameters that require gradients are optimized.
        optimizer: a `torch.optim` class (or partial) that takes parameter groups and `lr`.
        lr: base learning rate.
        weight_decay: of all weights but those of the next two.
        weight_decay_norm: of scale and shift of normalization layers, of other vectors such as
            layer scales, and of what an encoder of timm names in `no_weight_decay`, such as
            position embeddings; None: as the others.
        weight_decay_bias: of biases; None: as the others.
        bias_lr_factor: learning rate of biases over `lr`.
        lr_factor: learning rate over `lr` of parts of the model, such as {"backbone": 0.1} or
            {"backbone.stage4": 0.5}; of several names that fit, the longest counts.
        layer_decay: factor of the learning rate from each layer of an encoder of timm to the one
            before it, such as 0.75 (Bao et al. 2022, BEiT); None: 1.

    Raises:
        ValueError: a factor is none, no parameter belongs to its part, or `layer_decay` is set and
            the layers of the encoder have no order.
    """
    factors = _layer_factors(model, layer_decay)
    if lr_factor is not None and not isinstance(lr_factor, Mapping):
        raise ValueError(f"optimizer.lr_factor={lr_factor} must be such as {{backbone: 0.1}}")
    parts = sorted((lr_factor or {}).items(), key=lambda part: len(part[0]))
    for part, factor in parts:
        require_value(f"optimizer.lr_factor.{part}", factor, float, least=0)
        if not any(f"{name}.".startswith(f"{part}.") for name, _ in model.named_parameters()):
            there = ", ".join(name for name, _ in model.named_children())
            raise ValueError(f"optimizer.lr_factor: the model has no {part}; its parts are {there}")
    vectors = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.ndim < 2}
    for module in model.modules():
        names: set[str] = getattr(module, "no_weight_decay", set)()
        vectors |= {name.rpartition(".")[2] for name in names}

    def factor_of(name: str) -> float:
        name = name.removeprefix(".")
        factor = factors.get(name, 1.0) * (bias_lr_factor if name.endswith("bias") else 1.0)
        return factor * next((f for p, f in parts[::-1] if f"{name}.".startswith(f"{p}.")), 1.0)

    groups = get_default_optimizer_params(
        model,
        base_lr=lr,
        weight_decay=weight_decay,
        weight_decay_norm=weight_decay_norm,
        weight_decay_bias=weight_decay_bias,
        lr_factor_func=factor_of,
        overrides={
            name: {"weight_decay": weight_decay_norm}
            for name in vectors - {"weight", "bias"}
            if weight_decay_norm is not None
        },
    )
    if weight_decay_norm is not None:
        # Detectron2's rules do not know all classes of norms: its own LayerNorm, timm's of today.
        norms = {
            id(p)
            for module in model.modules()
            for name, p in module.named_parameters(recurse=False)
            if getattr(getattr(module, "weight", None), "ndim", 2) < 2
            and (name != "bias" or weight_decay_bias is None)
        }
        groups = [group | {"params": [p]} for group in groups for p in group["params"]]
        for group in groups:
            if id(group["params"][0]) in norms:
                group["weight_decay"] = weight_decay_norm
        groups = reduce_param_groups(groups)
    on_gpu = all(p.is_cuda for group in groups for p in group["params"])
    chosen = {"fused", "foreach", "capturable"} & getattr(optimizer, "keywords", {}).keys()
    if on_gpu and not chosen and "fused" in signature(optimizer).parameters:
        return make_part(optimizer, groups, lr=lr, fused=True)  # few kernels, which can skip a step
    return make_part(optimizer, groups, lr=lr)


def _layer_factors(model: nn.Module, decay: float | None) -> dict[str, float]:
    """The factor of each parameter of the model's encoder of timm; {} without `layer_decay`."""
    if decay is None:
        return {}
    require_value("optimizer.layer_decay", decay, float, above=0, most=1)
    for name, module in model.named_modules():
        if hasattr(module, "group_matcher"):
            from timm.models import group_parameters  # an extra, which is there

            # The name "", of no layer, is as deep as a classifier, and as heads are.
            names = [*module.named_parameters(), ("", None)]
            named: Any = SimpleNamespace(named_parameters=names.copy)
            depths = group_parameters(named, module.group_matcher(coarse=False), reverse=True)
            return {f"{name}.{n}": decay ** (depths[""] - depth) for n, depth in depths.items()}
    raise ValueError(
        f"optimizer.layer_decay={decay}: only encoders of timm know the order of their layers "
        "(backbone=timm); optimizer.lr_factor={backbone: 0.1} is one rate for all of a backbone"
    )
