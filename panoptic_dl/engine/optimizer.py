"""The optimizer with the recipe's parameter groups."""

from collections.abc import Callable

from detectron2.solver.build import get_default_optimizer_params
from torch import nn
from torch.optim import Optimizer


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
