"""Check that a training step fits into the device's memory: counted on small batches, not tried.

Activations grow with the pixels: what autograd keeps of a forward pass is counted for two sizes.

Shapes: N images, H W pixels.
"""

import contextlib
import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from panoptic_dl.doctor.config import images_per_pass
from panoptic_dl.doctor.context import CheckContext, CheckResult, fail, ok, warn
from panoptic_dl.doctor.machine import GIB, amount, optimizer_share
from panoptic_dl.models.activation_checkpointing import CONTRACT
from panoptic_dl.models.batch import padding_multiple
from panoptic_dl.train.trainer import DTYPES

MARGIN = 1.1  # measured steps of six rows took 0.91 to 1.03 of the estimate: docs/doctor.md
CUDA_CONTEXT = 0.6 * GIB  # with the libraries' workspaces
NUM_IMAGES = 2  # of a small batch
SIDES = (64, 128)  # of the images of two small batches: a difference is what grows with the pixels
NUM_GRADIENTS = 2  # of the largest tensors, alive at the same time


@dataclass(frozen=True)
class _Estimate:
    """Bytes of one process in a training step."""

    fixed: float  # weights, gradients, what the optimizer keeps, a moving average
    per_image: float  # of one forward pass

    def total(self, images: int) -> float:
        return self.fixed + images * self.per_image


def check_memory(context: CheckContext) -> CheckResult:
    """A step's weights, gradients and activations fit; counted on a small batch, not tried."""
    images = images_per_pass(context)
    estimate = estimate_memory(context)
    there = _available(context.device)
    share = there if context.device == "cuda" else there / context.num_processes
    needed = MARGIN * estimate.total(images)
    found = (
        f"about {amount(estimate.total(images))} for {images} images a pass, {amount(share)} there"
        + (f" for each of {context.num_processes} processes" if share != there else "")
    )
    if needed <= 0.9 * share:
        return ok(found)
    others = "train.activation_checkpointing=true, train.precision=bf16"
    more = "more GPUs" if context.device == "cuda" else "a machine with more memory"
    hint = f"{more}; or all of: train.images_per_gpu=1, {others}"
    per_process = context.train["batch_size"] // context.num_processes
    for fewer in range(images - 1, 0, -1):
        if per_process % fewer == 0 and MARGIN * estimate.total(fewer) <= 0.9 * share:
            hint = (
                f"train.images_per_gpu={fewer} (same batch, more passes); with larger ones: "
                f"{others}, {more}"
            )
            break
    return fail(found, hint) if needed > share else warn(f"{found}: it is tight", hint)


def estimate_memory(context: CheckContext) -> _Estimate:
    """Of a training step; `_count_kept` gives the part that grows with the images."""
    model: nn.Module = context.part("model")
    fixed, per_pixel = _count_kept(
        model,
        num_classes=context.part("num_classes"),
        precision=context.train["precision"],
        recompute=context.train["activation_checkpointing"],
        ignore_label=context.ignore_label,
    )
    multiple = context.sizes["size_divisibility"] or 32
    height, width = (math.ceil(side / multiple) * multiple for side in context.sizes["crop_size"])
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    copies = 2 + optimizer_share(context.part("optimizer")) + bool(context.train["ema"])
    copies += context.num_processes > 1  # gradients on their way to other processes
    fixed += weights * copies + (CUDA_CONTEXT if context.device == "cuda" else 0)
    return _Estimate(fixed, per_pixel * height * width)


def _available(device: str) -> float:
    """Free bytes of a GPU, or of the host: what its container may use, if it is in one."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info()[1])
    free = [float("inf")]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        free.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            base = Path("/sys/fs/cgroup")
            free.append(int((base / limit).read_text()) - int((base / used).read_text()))
    return min(free)


def _count_kept(
    model: Any, *, num_classes: int, precision: str, recompute: bool, ignore_label: int
) -> tuple[float, float]:
    """Count what autograd keeps for the backward pass, on two small batches in training mode.

    Tensors are counted once however often they are kept, parameters and buffers not at all.

    Args:
        model: its losses take Detectron2's targets.
        precision: of autocast: fp32 | tf32 | bf16 | fp16 (counted in bf16, which is as long).
        recompute: activations inside the backbone's blocks are computed again; only what the blocks
            are given is kept.

    Returns:
        Bytes whatever the size of the images, such as weights in half precision; and bytes for each
        pixel of the batch, gradients included.
    """
    half = precision in ("bf16", "fp16")
    device = next(model.parameters()).device.type
    sizes = []
    model = copy.deepcopy(model).train()  # batch norm changes its statistics
    if hasattr(model, "size_divisibility"):  # images are padded as little as possible
        model.size_divisibility = padding_multiple(model.backbone)
    with torch.autocast(device, dtype=DTYPES["bf16"], enabled=half):
        for layer in model.modules():
            if isinstance(layer, (nn.SyncBatchNorm, NaiveSyncBatchNorm)):
                layer.eval()  # it would wait for the other processes; it keeps as much
        for side in SIDES:
            sample = _sample(side, num_classes, ignore_label)
            kept, block = _sizes_kept(model, [sample] * NUM_IMAGES, recompute)
            sizes.append(kept)
    pixels = [NUM_IMAGES * side**2 for side in SIDES]
    small, large = map(sum, sizes)
    per_pixel = (large - small) / (pixels[1] - pixels[0])
    transient = (NUM_GRADIENTS * max(sizes[1]) + block) / pixels[1]
    return max(0.0, small - per_pixel * pixels[0]), per_pixel + transient


def _sizes_kept(
    model: nn.Module, batch: list[dict[str, Any]], recompute: bool
) -> tuple[list[int], int]:
    """Bytes of each storage that is kept of a forward pass, and of the largest block's inside."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}
    inside: list[dict[int, Tensor]] = []  # of each block: what it computes again
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
        inside.append(current)

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
    sizes, *block_sizes = (
        [tensor.untyped_storage().nbytes() for tensor in tensors.values()]
        for tensors in (kept, *inside)
    )
    del losses  # until here it kept all of them alive: no address was used twice
    return sizes, max(map(sum, block_sizes), default=0)


def _sample(side: int, num_classes: int, ignore_label: int) -> dict[str, Any]:
    """A square image of noise with the targets of both tasks."""
    random = torch.Generator().manual_seed(0)
    classes = torch.randint(num_classes, (side, side), generator=random)
    classes[0, 0] = ignore_label
    return {
        "image": torch.randint(256, (3, side, side), generator=random).to(torch.uint8),
        "height": side,
        "width": side,
        "sem_seg": classes,
        "sem_seg_weights": torch.ones(side, side),
        "center": torch.rand(side, side, generator=random),
        "center_weights": torch.ones(1, side, side),
        "offset": torch.ones(2, side, side),
        "offset_weights": torch.ones(1, side, side),
    }


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in _tensors(value)]
    return [values] if isinstance(values, Tensor) else []
