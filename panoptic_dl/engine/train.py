"""mode=train: Detectron2's trainer and hooks, checkpoints, evaluation on the way and at the end."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.weights.load import load_model_or_backbone

from .checkpoint import RunCheckpointer
from .console import ConsoleWriter
from .deviations import (
    Recipe,
    Run,
    deviations_table,
    find_deviations,
    images_of_statistics,
    scale_learning_rate,
)
from .ema import UpdateAverage, WeightAverage
from .evaluate_average import evaluate_both
from .evaluation import Evaluation
from .interrupt import StopOnSignal
from .micro_batches import accumulation
from .performance import Performance, performing, prepare_model
from .rehearsal import fresh_folder, shortened
from .schedule import ScheduleHook
from .trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """The numbers of a training run; `conf/train/` and the recipe give them."""

    iterations: int
    batch_size: int  # images of one iteration, over all processes
    num_workers: int  # loader processes per process
    precision: str  # fp32 | tf32 | bf16 | fp16
    log_period: int  # iterations between lines
    checkpoint_period: int  # iterations between checkpoints
    checkpoints_kept: int  # periodic ones; the final one comes on top
    eval_period: int  # iterations between evaluations; 0: only at the end
    eval_at_end: bool
    fast_dev_run: bool = False  # a few iterations of everything; see rehearsal
    images_per_gpu: int | None = None  # most in one forward pass; None: all of a process's share
    accumulate: int | None = None  # forward passes of a step; None: as images_per_gpu needs
    auto_scale_lr: bool = False  # the learning rate with the batch
    ema: float | None = None  # decay of the weights' moving average; None: no average
    activation_checkpointing: bool = False  # of the backbone's blocks
    channels_last: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in ("eval_period", "num_workers") else 1
            if field.type is int and (not isinstance(value, int) or value < lowest):
                raise ValueError(
                    f"train.{field.name}={value} must be a whole number, at least {lowest}"
                )


def train(
    *,
    device: str,
    model: nn.Module,
    loader: Iterable[list[dict[str, Any]]],
    optimizer: Callable[[nn.Module], Optimizer],
    schedule: Callable[[Optimizer], Any],
    evaluation: Evaluation,
    weights: str | None,
    resume: bool | str,
    run_dir: str,
    settings: dict[str, Any],
    recipe: dict[str, Any],
) -> dict[str, Any]:
    """Train `model` and evaluate it; called by every process of the run.

    Args:
        device: `cuda` or `cpu`.
        loader: endless batches of this process, in Detectron2's input format.
        optimizer, schedule: wait for the model, and for the optimizer.
        weights: file to start from; a whole model or a backbone.
        resume: True continues from the newest checkpoint in `run_dir`; `auto` does if there is one.
        run_dir: checkpoints, metrics.json, TensorBoard events, results and pictures go there.
        settings: fields of `TrainSettings`.
        recipe: fields of `Recipe`: what is meant, to be compared with what is done.

    Returns:
        The last evaluation's results, on the main process; {} elsewhere.

    Raises:
        ValueError: settings that cannot be; nothing to resume, or a run that would be overwritten.
        FloatingPointError: a loss is not finite.
    """
    numbers = TrainSettings(**settings)
    meant = Recipe(**recipe)
    if numbers.fast_dev_run:
        logger.warning("fast_dev_run: a few iterations of everything, no results")
        numbers, resume, run_dir = shortened(numbers), False, fresh_folder(run_dir)
        evaluation = partial(evaluation, rehearsal=True)  # type: ignore[assignment]
    accumulate = accumulation(
        numbers.batch_size, comm.get_world_size(), numbers.images_per_gpu, numbers.accumulate
    )
    if accumulate > 1:  # MERGER: hand it to the trainer and the loader, and drop this
        raise ValueError("train.accumulate > 1 needs the trainer of the main branch")
    Path(run_dir).mkdir(parents=True, exist_ok=True)
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
    _report_deviations(meant, numbers, model, built, accumulate)
    trainer = Trainer(
        wrapped,
        loader,
        built,
        precision=performance.autocast,
        device=torch.device(device),
    )
    checkpointer = RunCheckpointer(
        model,
        run_dir,
        save_to_disk=comm.is_main_process(),
        trainer=trainer,
        **({} if average is None else {"ema": average}),
    )
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, float]:
        results.clear()
        source = {"iteration": trainer.iter + 1}
        results.update(evaluate_both(evaluation, model, average, Path(run_dir), source=source))
        return results.get("metrics", {})

    hook_list = [
        hooks.IterationTimer(),
        ScheduleHook(built, schedule(built)),
        None if average is None else UpdateAverage(average),
        StopOnSignal(checkpointer, torch.device(device)),
        hooks.PeriodicCheckpointer(
            checkpointer, numbers.checkpoint_period, max_to_keep=numbers.checkpoints_kept
        )
        if comm.is_main_process()
        else None,
        hooks.EvalHook(numbers.eval_period, evaluate, numbers.eval_at_end),
    ]
    if comm.is_main_process():
        writers = [
            ConsoleWriter(numbers.iterations, numbers.log_period),
            # Window 1: the iteration's own values, not medians; a resumed run repeats them.
            JSONWriter(str(Path(run_dir, "metrics.json")), window_size=1),
            TensorboardXWriter(run_dir, window_size=1),
        ]
        hook_list.append(hooks.PeriodicWriter(writers, period=numbers.log_period))
    trainer.register_hooks(hook_list)

    start = _start(checkpointer, trainer, resume, weights, model)
    if start < numbers.iterations:
        logger.info("Training from iteration %d to %d", start, numbers.iterations)
        try:
            with performing(performance):
                trainer.train(start, numbers.iterations)
        finally:
            trainer.release_loader()
        if numbers.fast_dev_run:
            checkpointer.restore()
            logger.info("Read the last checkpoint again. fast_dev_run found nothing wrong")
        if average is not None and comm.is_main_process():
            logger.info("Saved the moving average of the weights: %s", average.save(run_dir))
    else:
        logger.info("All %d iterations are done already; evaluating", numbers.iterations)
        evaluate()
    return results


def _report_deviations(
    recipe: Recipe, numbers: TrainSettings, model: nn.Module, optimizer: Optimizer, accumulate: int
) -> None:
    """Say what the run does otherwise than its recipe."""
    processes = comm.get_world_size()
    each = numbers.batch_size // processes // accumulate
    run = Run(
        iterations=numbers.iterations,
        batch_size=numbers.batch_size,
        lr=optimizer.defaults["lr"],
        accumulate=accumulate,
        statistics=images_of_statistics(model, each, processes),
        precision=numbers.precision,
        ema=numbers.ema,
        auto_scale_lr=numbers.auto_scale_lr,
    )
    found = find_deviations(recipe, run)
    if not found:
        logger.info("Trained as the recipe says: batch, learning rate, length, arithmetic")
        return
    changed = any(deviation.meaning is not None for deviation in found)
    logger.log(
        logging.WARNING if changed else logging.INFO,
        "The run differs from its recipe%s\n%s",
        ": figures will too" if changed else ", not in what it should reach",
        deviations_table(found),
    )


def _start(
    checkpointer: RunCheckpointer,
    trainer: Trainer,
    resume: bool | str,
    weights: str | None,
    model: nn.Module,
) -> int:
    """Bring weights and state into place; return the iteration to start with."""
    if resume not in (True, False, "auto"):
        raise ValueError(f"resume={resume} is unknown; choose true, false or auto")
    there = checkpointer.has_checkpoint()
    if resume is True or (resume == "auto" and there):
        checkpointer.restore()
        return trainer.iter + 1
    if there:
        raise ValueError(
            f"{checkpointer.save_dir} holds a run already; continue it with resume=true, or name "
            "another run_dir"
        )
    if weights is not None:
        load_model_or_backbone(model, weights)
    else:
        logger.warning("No weights= given: training starts from random weights")
    return 0
