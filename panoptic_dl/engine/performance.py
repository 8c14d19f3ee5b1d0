"""Faster arithmetic for training: TF32, channels-last memory, torch.compile.

None of them changes a name in checkpoints or what an evaluation computes: figures come from the
model as it is, in full float32.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .float32 import check_precision, float32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Performance:
    """How a training step computes; the default changes nothing."""

    precision: str = "fp32"  # fp32 (strict, also in convolutions) | tf32 | bf16 | fp16
    channels_last: bool = False
    compile: bool = False

    def check(self, device: torch.device) -> None:
        """Raise ValueError for what is unknown, or what the device does not have."""
        check_precision("train.precision", self.precision, device)

    @property
    def autocast(self) -> str:
        """The precision for the trainer's autocast: TF32 is a kind of float32."""
        return "fp32" if self.precision == "tf32" else self.precision


def prepare_model(model: nn.Module, options: Performance) -> None:
    """Change how `model` trains, in place, when it is on its device and before anything wraps it.

    Names in its state_dict stay as they are. Only the training mode is compiled: evaluation meets
    images of many sizes, each of which would be compiled anew.

    Raises:
        ValueError: the machine cannot compile.
    """
    if options.channels_last:
        # Convolutions whose weights are channels-last make channels-last outputs of any input.
        model.to(memory_format=torch.channels_last)
    if options.compile:
        _require_compiler(next(model.parameters()).device)
        compiled = [_compile_in_training(owner, method) for owner, method in _networks(model)]
        logger.info("torch.compile: the first steps take longer (%s)", ", ".join(compiled))


@contextlib.contextmanager
def performing(options: Performance) -> Iterator[None]:
    """The settings of the process that `options` need, inside only."""
    try:
        with float32(tf32=options.precision == "tf32"):
            yield
    finally:
        if options.compile:
            # What is compiled counts against a limit by function, not by model: the jobs of a
            # sweep would run into it and then train uncompiled.
            torch.compiler.reset()


def _networks(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Backbone and heads; of Detectron2's heads all but upsampling and losses."""
    yield model.get_submodule("backbone"), "forward"
    for child in model.children():
        if callable(getattr(child, "layers", None)):
            yield child, "layers"


def _compile_in_training(owner: nn.Module, method: str) -> str:
    plain: Callable[..., Any] = getattr(owner, method)
    fast: Callable[..., Any] = torch.compile(plain)

    def chosen(*inputs: Any) -> Any:
        return fast(*inputs) if owner.training else plain(*inputs)

    setattr(owner, method, chosen)
    return f"{type(owner).__name__}.{method}"


def _require_compiler(device: torch.device) -> None:
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except Exception as error:
        raise ValueError(
            "train.compile=true needs a C++ compiler (on the CPU) or Triton (on a GPU); "
            f"torch.compile said: {type(error).__name__}: {str(error)[:300]}"
        ) from error
