"""What a run does otherwise than its recipe, and which of it changes results."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer

from panoptic_dl.core.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What was published, or is meant: `recipe_record` of the config.

    In fp32, with batch normalisation over the whole batch, without averages or clipping.
    """

    iterations: int
    batch_size: int  # images of one step, over all processes
    lr: float

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "lr"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise ValueError(f"recipe_record.{name}={value} must be a positive number")


@dataclass(frozen=True)
class Run:
    """What is done."""

    iterations: int
    batch_size: int
    lr: float
    accumulate: int  # forward passes of a process for one step
    statistics: int | None  # images that batch normalisation sees at once; None: there is none
    precision: str = "fp32"
    ema: float | None = None
    clip_norm: float | None = None
    auto_scale_lr: bool = False


@dataclass(frozen=True)
class Deviation:
    """A line of the table; `meaning` is None where results stay the same but for rounding."""

    what: str
    recipe: str
    run: str
    meaning: str | None


def images_of_statistics(model: nn.Module, images: int, num_processes: int) -> int | None:
    """How many images a batch normalisation of `model` takes its mean and variance of.

    Args:
        images: of one forward pass of one process.
        num_processes: whose statistics are put together, where layers are synchronised.

    Returns:
        The smallest number of all layers; None where none normalises over the batch.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return None
    together = all(isinstance(m, (nn.SyncBatchNorm, NaiveSyncBatchNorm)) for m in layers)
    return images * (num_processes if together else 1)


def find_deviations(recipe: Recipe, run: Run) -> list[Deviation]:
    """All that differs, what changes results most first."""
    found: list[Deviation] = []

    def compare(what: str, theirs: object, ours: object, meaning: str | None) -> None:
        if theirs != ours:
            found.append(Deviation(what, _text(theirs), _text(ours), meaning))

    scale = run.batch_size / recipe.batch_size
    compare(
        "train.batch_size",
        recipe.batch_size,
        run.batch_size,
        "the rate and the number of iterations belong to the recipe's batch"
        + ("" if run.auto_scale_lr else "; train.auto_scale_lr=true scales the rate"),
    )
    scaled = run.auto_scale_lr and abs(run.lr - recipe.lr * scale) <= 1e-9 * run.lr
    compare(
        "optimizer.lr",
        recipe.lr,
        run.lr,
        f"scaled by {scale:.4g}, linearly with the batch" if scaled else "another learning rate",
    )
    compare("train.iterations", recipe.iterations, run.iterations, "another length of training")
    images = recipe.batch_size * recipe.iterations, run.batch_size * run.iterations
    compare("images seen", *images, "more or less training altogether")
    if run.statistics is not None:
        compare(
            "images of BatchNorm's statistics",
            recipe.batch_size,
            run.statistics,
            "noisier statistics" if run.statistics < recipe.batch_size else "steadier statistics",
        )
    compare("train.precision", "fp32", run.precision, "coarser arithmetic")
    compare("train.clip_norm", None, run.clip_norm, "large gradients are shortened")
    compare("train.ema", None, run.ema, None)
    compare("forward passes a step", 1, run.accumulate, None)
    return found


def deviations_table(deviations: Sequence[Deviation]) -> str:
    """As a Markdown table."""
    rows = [
        (d.what, d.recipe, d.run, "no change of results" if d.meaning is None else d.meaning)
        for d in deviations
    ]
    return tabulate(rows, ["", "recipe", "this run", "means"], "github", disable_numparse=True)


def scale_learning_rate(optimizer: Optimizer, recipe: Recipe, batch_size: int) -> float:
    """Multiply the rates of all groups by the batch over the recipe's; return that number.

    The linear rule of Goyal et al. 2017, made for SGD, as Detectron2's own scaling does it for any
    optimizer. For Adam theory says the square root (Malladi et al. 2022): then set `optimizer.lr`
    yourself. Iterations and warm-up stay as they are. Call it before the schedule is made.
    """
    factor = batch_size / recipe.batch_size
    for group in optimizer.param_groups:
        group["lr"] *= factor
    optimizer.defaults["lr"] *= factor
    return factor


def report_deviations(
    recipe: Recipe, settings: TrainSettings, model: nn.Module, optimizer: Optimizer, accumulate: int
) -> None:
    """Say in the log what the run does otherwise than its recipe."""
    processes = comm.get_world_size()
    each = settings.batch_size // processes // accumulate
    run = Run(
        iterations=settings.iterations,
        batch_size=settings.batch_size,
        lr=optimizer.defaults["lr"],
        accumulate=accumulate,
        statistics=images_of_statistics(model, each, processes),
        precision=settings.precision,
        ema=settings.ema,
        clip_norm=settings.clip_norm,
        auto_scale_lr=settings.auto_scale_lr,
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


def _text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
