"""What autograd keeps of a forward pass, counted on a small one: activations grow with the pixels.

Legend: N images, H W pixels.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from panoptic_dl.engine.trainer import DTYPES
from panoptic_dl.models.activation_checkpointing import CONTRACT
from panoptic_dl.models.batch import padding_multiple

IMAGES = 2
GRADIENTS = 2  # of the largest tensors, alive at the same time
SIDES = (64, 128)  # of the two small batches: what does not grow with the pixels falls out


@dataclass(frozen=True)
class Kept:
    """What autograd keeps for the backward pass, in bytes."""

    a_pixel: float  # of the batch
    in_passing: float  # a pixel, on top of them for a while in the backward pass
    fixed: float  # whatever the size, such as weights in half precision


def count_kept(
    model: nn.Module, *, num_classes: int, precision: str, recompute: bool, ignore_label: int = 255
) -> Kept:
    """Run `model` in training mode on two small batches; its losses must take Detectron2's targets.

    Tensors are counted once however often they are kept, parameters and buffers not at all.

    Args:
        precision: of autocast: fp32 | tf32 | bf16 | fp16 (counted in bf16, which is as long).
        recompute: activations inside the backbone's blocks are computed again; only what the blocks
            are given is kept.

    Buffers, and whether the model was in training mode, are afterwards as before.
    """
    half = precision in ("bf16", "fp16")
    device = next(model.parameters()).device.type
    sizes = []
    with _as_before(model), torch.autocast(device, dtype=DTYPES["bf16"], enabled=half):
        model.train()
        for layer in model.modules():
            if isinstance(layer, (nn.SyncBatchNorm, NaiveSyncBatchNorm)):
                layer.eval()  # it would wait for the other processes; it keeps as much
        for side in SIDES:
            sample = _sample(side, num_classes, ignore_label)
            kept, block = _sizes_kept(model, [sample] * IMAGES, recompute)
            sizes.append(kept)
    pixels = [IMAGES * side**2 for side in SIDES]
    small, large = (sum(of_batch) for of_batch in sizes)
    a_pixel = (large - small) / (pixels[1] - pixels[0])
    in_passing = (GRADIENTS * max(sizes[1]) + block) / pixels[1]
    return Kept(a_pixel, in_passing, max(0.0, small - a_pixel * pixels[0]))


def _sizes_kept(
    model: nn.Module, batch: list[dict[str, Any]], recompute: bool
) -> tuple[list[int], int]:
    """Bytes of each storage that is kept of a forward pass, and of the largest block's inside."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}
    passing: list[dict[int, Tensor]] = [{}]  # of each block: what it computes again
    current = kept

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            current[address] = tensor
        return tensor

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal current
        for tensor in _tensors(inputs):
            keep(tensor)
        current = {}
        passing.append(current)

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        nonlocal current
        current = kept

    blocks = getattr(model.get_submodule("backbone"), CONTRACT, ()) if recompute else ()
    with contextlib.ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_pre_hook(enter).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        losses = model(batch)
    sizes = [_bytes(tensor) for tensor in kept.values()]
    block = max(sum(map(_bytes, tensors.values())) for tensors in passing)
    del losses  # until here it kept all of them alive: no address was used twice
    return sizes, block


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _sample(side: int, num_classes: int, ignore_label: int) -> dict[str, Any]:
    """A square image of noise with the targets of both tasks."""
    height = width = side
    random = torch.Generator().manual_seed(0)
    classes = torch.randint(num_classes, (height, width), generator=random)
    classes[0, 0] = ignore_label
    return {
        "image": torch.randint(256, (3, height, width), generator=random).to(torch.uint8),
        "height": height,
        "width": width,
        "sem_seg": classes,
        "sem_seg_weights": torch.ones(height, width),
        "center": torch.rand(height, width, generator=random),
        "center_weights": torch.ones(1, height, width),
        "offset": torch.ones(2, height, width),
        "offset_weights": torch.ones(1, height, width),
    }


@contextlib.contextmanager
def _as_before(model: Any) -> Iterator[None]:
    """Inside, images are padded as little as can be; buffers and mode are then as they were."""
    training = model.training
    buffers = [buffer.clone() for buffer in model.buffers()]
    divisibility = getattr(model, "size_divisibility", None)
    if divisibility is not None:
        model.size_divisibility = padding_multiple(model.backbone)
    try:
        yield
    finally:
        model.train(training)
        if divisibility is not None:
            model.size_divisibility = divisibility
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)


def _tensors(values: Any) -> Sequence[Tensor]:
    """All that are in nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
