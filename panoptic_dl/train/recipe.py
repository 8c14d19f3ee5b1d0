"""The differences between a run and its recipe, and which of them change results."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from detectron2.utils import comm
from tabulate import tabulate
from torch import nn
from torch.optim import Optimizer

from panoptic_dl.core.settings import TrainSettings, require_value
from panoptic_dl.models.batch_norm import SYNCHRONIZED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """The published or intended training: `recipe_record` of the config.

    In fp32 or tf32, with batch normalization over the whole batch, without averages or clipping.
    """

    iterations: int
    batch_size: int  # images of one step, over all processes
    lr: float
    warmup_iters: int | None = None  # the schedules read it from the config
    epochs: float | None = None  # that made the iterations, of a custom dataset
    choices: Mapping[str, str | None] = field(default_factory=dict)  # options, by group; None: any

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "lr"):
            require_value(f"recipe_record.{name}", getattr(self, name), float, above=0)


class _Difference(NamedTuple):
    """A line of the table; `effect` is None where results stay the same but for rounding."""

    setting: str
    recipe: str
    run: str
    effect: str | None


def find_differences(
    recipe: Recipe,
    settings: TrainSettings,
    model: nn.Module,
    optimizer: Optimizer,
    accumulate: int,
    choice: Mapping[str, object],
) -> list[_Difference]:
    """All differences between a run and its recipe, those that change results most first.

    `optimizer` has the base rate; `accumulate` passes make a step; `choice` are options by group.
    """
    lr, processes = optimizer.defaults["lr"], comm.get_world_size()
    share = settings.batch_size // processes // accumulate
    batch_norm_images = images_of_statistics(model, share, processes)
    batch = recipe.batch_size
    effect_of_batch = "the rate and the number of iterations belong to the recipe's batch"
    if not settings.auto_scale_lr:
        effect_of_batch += "; train.auto_scale_lr=true scales the rate"
    scale, effect_of_lr = settings.batch_size / batch, "another learning rate"
    if settings.auto_scale_lr and abs(lr - recipe.lr * scale) <= 1e-9 * lr:
        effect_of_lr = f"scaled by {scale:.4g}, linearly with the batch"
    images = batch if batch_norm_images is None else batch_norm_images
    statistics = f"{'noisier' if images < batch else 'steadier'} statistics"
    seen, seen_here = batch * recipe.iterations, settings.batch_size * settings.iterations
    precision = "tf32" if settings.precision == "fp32" else settings.precision  # both are right
    rows: list[tuple[str, object, object, str | None]] = [
        ("train.batch_size", batch, settings.batch_size, effect_of_batch),
        ("optimizer.lr", recipe.lr, lr, effect_of_lr),
        ("train.iterations", recipe.iterations, settings.iterations, "another length of training"),
        ("images seen", seen, seen_here, "more or less training altogether"),
        ("images of BatchNorm's statistics", batch, images, statistics),
        *(
            (group, option, choice.get(group, option), f"another {group}")
            for group, option in recipe.choices.items()
            if option is not None
        ),
        ("train.precision", "tf32", precision, "coarser arithmetic"),
        ("train.clip_norm", None, settings.clip_norm, "large gradients are shortened"),
        ("train.ema", None, settings.ema, None),
        ("forward passes a step", 1, accumulate, None),
    ]
    return [
        _Difference(name, _text(theirs), _text(ours), effect)
        for name, theirs, ours, effect in rows
        if theirs != ours
    ]


def images_of_statistics(model: nn.Module, images: int, num_processes: int) -> int | None:
    """The least number of images (of a pass of a process) that batch statistics are of, or None."""
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return None
    synchronized = all(isinstance(m, SYNCHRONIZED) for m in layers)
    return images * (num_processes if synchronized else 1)


def log_differences(found: list[_Difference]) -> None:
    """Log how the run differs from its recipe: a warning if it changes results."""
    if not found:
        logger.info("Trained as the recipe says: batch, learning rate, length, arithmetic")
        return
    changed = any(difference.effect is not None for difference in found)
    rows = [(*d[:3], "no change of results" if d.effect is None else d.effect) for d in found]
    logger.log(
        logging.WARNING if changed else logging.INFO,
        "The run differs from its recipe%s\n%s",
        ": metrics will too" if changed else ", not in what it should reach",
        tabulate(rows, ["", "recipe", "this run", "means"], "github", disable_numparse=True),
    )


def scale_learning_rate(optimizer: Optimizer, recipe: Recipe, batch_size: int) -> float:
    """Multiply the rates of all groups by the batch over the recipe's; return that factor.

    The linear rule of Goyal et al. 2017, made for SGD, as Detectron2's own scaling does it for any
    optimizer. For Adam theory says the square root (Malladi et al. 2022): then set `optimizer.lr`
    yourself. Iterations and warm-up stay as they are. Call it before the schedule is made.
    """
    factor = batch_size / recipe.batch_size
    for group in optimizer.param_groups:
        group["lr"] *= factor
    optimizer.defaults["lr"] *= factor
    return factor


def _text(value: object) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
