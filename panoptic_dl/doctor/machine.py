"""Checks of the machine: packages, device, cores, room on the disk and in shared memory."""

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import nn
from torch.optim import Optimizer

from panoptic_dl.core.environment import describe_device, detectron2_origin, version
from panoptic_dl.core.parallel import count_cores
from panoptic_dl.doctor.config import images_per_pass
from panoptic_dl.doctor.context import CheckContext, CheckResult, fail, from_problems, ok, warn
from panoptic_dl.train.precision import check_precision

GIB = 2**30
SHOWN_PACKAGES = ("torch", "numpy", "hydra-core")
EXTRA_CHECKPOINTS = 2  # next to the numbered ones: the best, and one that is being written
LOG_BYTES = 200 * 2**20  # for logs, events and pictures
SHARED_MEMORY = "/dev/shm"  # through which loader processes hand over their samples
PREFETCHED = 2  # batches that each loader process keeps ready: PyTorch's default
# Bytes a pixel of a training sample: image 3, classes 8, and of the panoptic task weights 4,
# heatmap 4 and 4, offsets 8 and 4.
SAMPLE_BYTES = {"panoptic": 35, "semantic": 11}


def check_device(context: CheckContext) -> CheckResult:
    """As many devices as asked for, which have the precision of training."""
    if context.launch_refused is not None:
        return fail(context.launch_refused, "see launch.num_gpus in docs/long_runs.md")
    device = torch.device(context.device)
    check_precision("train.precision", context.train["precision"], device)
    found = describe_device(context.device)
    if context.num_processes > 1:
        found = f"{context.num_processes} processes, each on: {found}"
    if device.type == "cpu" and torch.version.cuda and not torch.cuda.is_available():
        found += "; no GPU"
    if device.type == "cpu" and torch.cuda.device_count() > 0:
        return warn(f"{found}; {torch.cuda.device_count()} GPUs are not used", "launch.num_gpus=1")
    return ok(found)


def check_loader_processes(context: CheckContext) -> CheckResult:
    """Loader processes beyond the cores cost memory and bring nothing."""
    workers, cores = context.train["num_workers"], count_cores()
    share = max(1, cores // context.num_processes)
    found = f"{workers} loader processes"
    if context.num_processes > 1:
        found += f" for each of {context.num_processes} training processes"
    found += f", {cores} cores"
    return warn(found, f"train.num_workers={share}") if workers > share else ok(found)


def amount(number: float) -> str:
    """Bytes for people: "1.5 GiB", "20 MiB"."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


def check_disk(context: CheckContext) -> CheckResult:
    """The free room of run_dir against the checkpoints that will be kept in it."""
    model: nn.Module = context.part("model")
    weights = _num_bytes(model.state_dict().values())
    trained = _num_bytes(p for p in model.parameters() if p.requires_grad)
    averaged = weights if context.train["ema"] else 0
    size = weights + averaged + trained * optimizer_share(context.part("optimizer"))
    count = context.checkpoint["kept"] + EXTRA_CHECKPOINTS
    needed = count * size + LOG_BYTES
    folder = Path(context.run_dir).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = (
        f"{amount(free)} free in {context.run_dir}, {count} checkpoints of {amount(size)} and logs "
        f"take {amount(needed)}"
    )
    if needed > free:
        return fail(found, "make room, choose another run_dir, or checkpoint.kept=1")
    if 2 * needed > free:
        return warn(found, "make room, or choose another run_dir: other runs write, too")
    return ok(found)


def optimizer_share(optimizer: Callable[[nn.Module], Optimizer]) -> float:
    """Bytes that an optimizer keeps for each byte of parameters: seen in a step of a tiny layer."""
    layer = nn.Linear(64, 64)
    tried = optimizer(layer)
    layer(torch.zeros(1, 64)).sum().backward()
    tried.step()
    kept = sum(_num_bytes(state.values()) for state in tried.state.values())
    return kept / _num_bytes(layer.parameters())


def _num_bytes(values: Iterable[Any]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))


def check_packages(context: CheckContext) -> CheckResult:
    """Every package that `pyproject.toml` names is there, in a version that it allows."""
    python = f"Python {platform.python_version()}"
    try:
        required = metadata.requires("panoptic-dl") or []
    except metadata.PackageNotFoundError:
        return fail(f"{python}; the project itself is not installed", "make setup")
    problems = []
    for text in required:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = version(wanted.name)
        if there == "not installed":
            problems.append(f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(there, prereleases=True):
            problems.append(f"{wanted.name} is {there}, not {wanted.specifier}")
    right = ", ".join([python, *(f"{name} {version(name)}" for name in SHOWN_PACKAGES)])
    wrong = "packages are not as the project needs them"
    return from_problems(right, wrong, "make setup", problems)


def check_detectron2(context: CheckContext) -> CheckResult:
    """Detectron2 can be imported."""
    origin = detectron2_origin()
    return fail(origin, "make setup") if origin.startswith("cannot be imported") else ok(origin)


def check_shared_memory(context: CheckContext) -> CheckResult | None:
    """Room for the batches that wait; without it training ends with a bus error."""
    workers = context.train["num_workers"]
    if not workers or not os.path.isdir(SHARED_MEMORY):
        return None
    height, width = context.sizes["crop_size"]
    sample = height * width * SAMPLE_BYTES.get(context.choice["task"], SAMPLE_BYTES["panoptic"])
    batch = images_per_pass(context) * sample
    needed = PREFETCHED * workers * context.num_processes * batch
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{SHARED_MEMORY} has {amount(free)} free, batches that wait take {amount(needed)}"
    if needed <= free:
        return ok(found)
    fitting = int(workers * free / needed)
    return fail(
        found,
        f"train.num_workers={fitting}, or in a container more of it: docker run --shm-size="
        f"{-(-needed // GIB)}g",
    )
