"""Ways to run a network faster, each of which may change its output."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_dl.models.fold import fold_batch_norms

from .float32 import check_precision, float32

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
