"""What a training step will take of the device's memory, against what there is.

What autograd keeps of a forward pass, counted on a small one: activations grow with the pixels.

Legend: N images, H W pixels.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import Tensor, nn

from panoptic_dl.doctor.config import images_per_pass
from panoptic_dl.doctor.context import Patient, Verdict, fail, ok, warn
from panoptic_dl.doctor.machine import GIB, amount, state_share
from panoptic_dl.models.activation_checkpointing import CONTRACT
from panoptic_dl.models.batch import padding_multiple
from panoptic_dl.train.trainer import DTYPES

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


MARGIN = 1.1  # measured steps of six rows took 0.91 to 1.03 of the estimate: docs/doctor.md
CONTEXT = 0.6 * GIB  # CUDA's own, with the libraries' workspaces


@dataclass(frozen=True)
class Estimate:
    """Bytes of one process in a training step."""

    fixed: float  # weights, gradients, what the optimizer keeps, a moving average
    an_image: float  # of one forward pass

    def total(self, images: int) -> float:
        return self.fixed + images * self.an_image


def look_at_memory(patient: Patient) -> Verdict:
    """A step's weights, gradients and activations fit; counted on a small batch, not tried."""
    images = images_per_pass(patient)
    estimate = estimate_memory(patient)
    there = available(patient.device)
    share = there if patient.device == "cuda" else there / patient.num_processes
    needed = MARGIN * estimate.total(images)
    found = (
        f"about {amount(estimate.total(images))} for {images} images a pass, {amount(share)} there"
        + (f" for each of {patient.num_processes} processes" if share != there else "")
    )
    if needed <= 0.9 * share:
        return ok(found)
    cure = _cure(patient, estimate, images, share)
    return fail(found, cure) if needed > share else warn(f"{found}: it is tight", cure)


def estimate_memory(patient: Patient) -> Estimate:
    """Of a training step of the row: see `count_kept` for the part that grows with images."""
    model: nn.Module = patient.part("model")
    kept: Kept = count_kept(
        model,
        num_classes=patient.part("num_classes"),
        precision=patient.train["precision"],
        recompute=patient.train["activation_checkpointing"],
        ignore_label=patient.ignore_label,
    )
    multiple = patient.sizes["size_divisibility"] or 32
    height, width = (math.ceil(side / multiple) * multiple for side in patient.sizes["crop_size"])
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    copies = 2 + state_share(patient.part("optimizer")) + bool(patient.train["ema"])
    copies += patient.num_processes > 1  # gradients on their way to other processes
    context = CONTEXT if patient.device == "cuda" else 0
    return Estimate(
        weights * copies + kept.fixed + context,
        (kept.a_pixel + kept.in_passing) * height * width,
    )


def available(device: str) -> float:
    """Bytes: of a GPU all that it has, of the host what is free, also for a container."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info()[1])
    rooms = [float("inf")]
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        rooms.append(int(line.split()[1]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such limit, or "max"
            base = Path("/sys/fs/cgroup")
            rooms.append(int((base / limit).read_text()) - int((base / used).read_text()))
    return min(rooms)


def _cure(patient: Patient, estimate: Estimate, images: int, share: float) -> str:
    """The largest part of the batch that fits, and other ways."""
    per_process = patient.train["batch_size"] // patient.num_processes
    fitting = [
        n
        for n in range(1, images)
        if per_process % n == 0 and MARGIN * estimate.total(n) <= 0.9 * share
    ]
    others = "train.activation_checkpointing=true, train.precision=bf16"
    more = "more GPUs" if patient.device == "cuda" else "a machine with more memory"
    if fitting:
        return (
            f"train.images_per_gpu={max(fitting)} (same batch, more passes); with larger ones: "
            f"{others}, {more}"
        )
    return f"{more}; or all of: train.images_per_gpu=1, {others}"
