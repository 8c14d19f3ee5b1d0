"""What the network runs on.

CPU cores, and the processes that want them.

Room for a run's checkpoints.

Python and the packages that the project's metadata asks for.

/dev/shm, through which loader processes hand over their samples.

Bytes in words.
"""

import os
import platform
import shutil
from collections.abc import Callable
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
from panoptic_dl.doctor.context import Patient, Verdict, fail, judge, ok, warn
from panoptic_dl.train.precision import check_precision


def look_at_device(patient: Patient) -> Verdict:
    """The device is there, as many as asked for, and has the precision of training."""
    if patient.launch_refused is not None:
        return fail(patient.launch_refused, "see launch.num_gpus in docs/long_runs.md")
    device = torch.device(patient.device)
    check_precision("train.precision", patient.train["precision"], device)
    found = describe_device(patient.device)
    if patient.num_processes > 1:
        found = f"{patient.num_processes} processes, each on: {found}"
    if device.type == "cpu" and torch.version.cuda and not torch.cuda.is_available():
        found += "; no GPU"
    if device.type == "cpu" and torch.cuda.device_count() > 0:
        return warn(f"{found}; {torch.cuda.device_count()} GPUs are not used", "launch.num_gpus=1")
    return ok(found)


def look_at_loader_processes(patient: Patient) -> Verdict:
    """Loader processes beyond the cores cost memory and bring nothing."""
    workers, cores = patient.train["num_workers"], count_cores()
    share = max(1, cores // patient.num_processes)
    found = f"{workers} loader processes for each of {patient.num_processes} training processes"
    if patient.num_processes == 1:
        found = f"{workers} loader processes"
    found += f", {cores} cores"
    if workers > share:
        return warn(found, f"train.num_workers={share}")
    return ok(found)


GIB = 2**30


def amount(number: float) -> str:
    """As people say it: "1.5 GiB", "20 MiB"."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


EXTRA = 2  # beside the numbered ones: the best, and one that is being written
LOGS = 200 * 2**20  # bytes for logs, events and pictures


def look_at_disk(patient: Patient) -> Verdict:
    """The free room of run_dir against the checkpoints that will be kept in it."""
    model: nn.Module = patient.part("model")
    size = checkpoint_bytes(
        model, patient.part("optimizer"), with_average=bool(patient.train["ema"])
    )
    count = patient.checkpoint["kept"] + EXTRA
    needed = count * size + LOGS
    folder = Path(patient.run_dir).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = (
        f"{amount(free)} free in {patient.run_dir}, {count} checkpoints of {amount(size)} and logs "
        f"take {amount(needed)}"
    )
    if needed <= free:
        if 2 * needed > free:
            return warn(found, "make room, or choose another run_dir: other runs write, too")
        return ok(found)
    return fail(found, "make room, choose another run_dir, or checkpoint.kept=1")


def checkpoint_bytes(
    model: nn.Module, optimizer: Callable[[nn.Module], Optimizer], *, with_average: bool
) -> int:
    """Of a checkpoint: weights, what the optimizer keeps, and perhaps a second set of weights."""
    weights = _bytes(model.state_dict())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return int(weights * (2 if with_average else 1) + trained * state_share(optimizer))


def state_share(optimizer: Callable[[nn.Module], Optimizer]) -> float:
    """How many numbers an optimizer keeps for each parameter: seen in one step of a tiny layer."""
    layer = nn.Linear(64, 64)
    tried = optimizer(layer)
    layer(torch.zeros(1, 64)).sum().backward()
    tried.step()
    kept = sum(_bytes(state) for state in tried.state.values())
    return kept / sum(p.numel() * p.element_size() for p in layer.parameters())


def _bytes(state: Any) -> int:
    values = state.values()
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))


CURE = "make setup"
SAID = ("torch", "numpy", "hydra-core")  # of all packages


def look_at_packages(patient: Patient) -> Verdict:
    """Every package that `pyproject.toml` names is there, in a version that it allows."""
    python = f"Python {platform.python_version()}"
    try:
        required = metadata.requires("panoptic-dl") or []
    except metadata.PackageNotFoundError:
        return fail(f"{python}; the project itself is not installed", CURE)
    problems = []
    for text in required:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        there = version(wanted.name)
        if there == "not installed":
            problems.append(f"{wanted.name} is not installed")
        elif not wanted.specifier.contains(there, prereleases=True):
            problems.append(f"{wanted.name} is {there}, not {wanted.specifier}")
    right = ", ".join([python, *(f"{name} {version(name)}" for name in SAID)])
    return judge(right, "packages are not as the project needs them", CURE, problems)


def look_at_detectron2(patient: Patient) -> Verdict:
    """It can be imported, from wherever it comes."""
    origin = detectron2_origin()
    return fail(origin, CURE) if origin.startswith("cannot be imported") else ok(origin)


FOLDER = "/dev/shm"
PREFETCHED = 2  # batches that each loader process keeps ready: PyTorch's default
# Bytes a pixel of a training sample: image 3, classes 8, and of the panoptic task weights 4,
# heatmap 4 and 4, offsets 8 and 4.
BYTES = {"panoptic": 35, "semantic": 11}


def look_at_shared_memory(patient: Patient) -> Verdict | None:
    """Room for the batches that wait; without it training dies of a bus error."""
    workers = patient.train["num_workers"]
    if not workers or not os.path.isdir(FOLDER):
        return None
    height, width = patient.sizes["crop_size"]
    bytes_a_pixel = BYTES.get(patient.choice["task"], max(BYTES.values()))
    images = images_per_pass(patient)
    needed = PREFETCHED * workers * patient.num_processes * images * height * width * bytes_a_pixel
    free = shutil.disk_usage(FOLDER).free
    found = f"{FOLDER} has {amount(free)} free, batches that wait take {amount(needed)}"
    if needed <= free:
        return ok(found)
    fitting = int(workers * free / needed)
    return fail(
        found,
        f"train.num_workers={fitting}, or in a container more of it: docker run --shm-size="
        f"{-(-needed // GIB)}g",
    )
