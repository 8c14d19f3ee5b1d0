"""What a training step will take of the device's memory, against what there is."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..amounts import GIB, amount
from ..machine.disk import state_share
from ..patient import Patient
from ..verdicts import Verdict, fail, ok, warn
from .activations import Kept, count_kept
from .composition import images_per_pass

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
