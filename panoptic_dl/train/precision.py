"""Faster arithmetic for training: TF32, channels-last memory, torch.compile.

None of them changes a name in checkpoints or what an evaluation computes: figures come from the
model as it is, in full float32.

Precisions; and what "float32" means on a GPU.

There PyTorch itself lets convolutions round their inputs to TF32.

Ways to run a network faster, each of which may change its output.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_dl.models.batch_norm import fold_batch_norms

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


def check_precision(key: str, precision: str, device: torch.device) -> None:
    """Raise ValueError for a precision that is unknown, or that the device does not have.

    Args:
        key: of the config, for the message.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"{key}={precision} is unknown; choose {', '.join(PRECISIONS)}")
    if device.type == "cpu" and precision in ("tf32", "fp16"):
        raise ValueError(f"{key}={precision} needs a GPU; on the CPU choose fp32 or bf16")


@contextlib.contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions inside round their inputs to 10 bits of mantissa, or not.

    Settings of the process are as before afterwards, also after an error: the next job of a sweep
    must not inherit them.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


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


Maps = tuple[Tensor, ...]
Network = Callable[[Tensor], Maps]

MIN_SIDE = 32  # pixels; the smallest image that models take


@dataclass(frozen=True)
class InferenceOptions:
    """How the network runs; the default is the reference: float32, nothing changed."""

    precision: str = "fp32"  # fp32 | tf32 | bf16 | fp16
    channels_last: bool = False
    compile: bool = False
    fold_batch_norm: bool = False

    def check(self, device: torch.device) -> None:
        """Raise ValueError for options that the device does not have."""
        check_precision("benchmark.precision", self.precision, device)


@contextlib.contextmanager
def arithmetic(options: InferenceOptions, device: torch.device) -> Iterator[None]:
    """The precision of what runs inside, exactly: PyTorch itself lets convolutions use TF32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
    with (
        float32(tf32=options.precision == "tf32"),
        torch.autocast(device.type, dtype=half, enabled=half is not None),
    ):
        yield


def prepare_network(model: Any, options: InferenceOptions, example: Tensor) -> Network:
    """Apply `options` to `model` in place; return the function from images to maps.

    Args:
        model: in eval mode, with `network` from normalised images (N, C, H, W) to maps.
        example: such images.

    Raises:
        ValueError: the machine cannot compile.
    """
    network: Network = model.network
    if options.fold_batch_norm:
        _fold_exactly(model, example[:1, :, : 4 * MIN_SIDE, : 4 * MIN_SIDE])
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
        plain = network

        def network(images: Tensor) -> Maps:
            return plain(images.contiguous(memory_format=torch.channels_last))

    if options.compile:
        network = torch.compile(network)
        try:
            with arithmetic(options, example.device), torch.no_grad():
                network(example)
        except Exception as error:
            raise ValueError(
                "benchmark.compile=true needs a C++ compiler (on the CPU) or Triton (on a GPU); "
                f"torch.compile said: {type(error).__name__}: {str(error)[:300]}"
            ) from error
    return network


@torch.no_grad()
def _fold_exactly(model: Any, example: Tensor) -> None:
    """Fold, in double precision, where anything but rounding would show."""
    model.double()
    example = example.double()
    before = model.network(example)
    fold_batch_norms(model, lambda: model.network(example))
    after = model.network(example)
    for maps, folded in zip(before, after, strict=True):
        difference = (maps - folded).abs().max().item()
        if not difference <= 1e-9 * maps.abs().max().item():
            raise ValueError(
                f"benchmark.fold_batch_norm=true changes outputs by {difference:.3g} in double "
                "precision: it is not exact for this network, leave it out"
            )
    model.float()


def count_parameters(model: nn.Module) -> int:
    """Of all parameters, those of the normalisations included, buffers not."""
    return sum(parameter.numel() for parameter in model.parameters())
