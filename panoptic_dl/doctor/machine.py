"""Checks of the machine: packages, devices, memory, shared memory, disk."""

import contextlib
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from panoptic_dl.core.environment import describe_device, gpus_unused, version
from panoptic_dl.core.parallel import count_cores
from panoptic_dl.doctor.context import CheckContext, CheckResult, fail, from_problems, ok, warn
from panoptic_dl.doctor.memory import estimate_step
from panoptic_dl.train.checkpoint import EXTRA_CHECKPOINTS, checkpoint_bytes
from panoptic_dl.train.precision import check_precision

SHOWN_PACKAGES = ("torch", "numpy", "hydra-core")
GIB = 2**30
LOG_BYTES = 200 * 2**20  # for logs, events and pictures
SHARED_MEMORY = "/dev/shm"  # through which loader processes hand over their samples
PREFETCHED = 2  # batches that each loader process keeps ready: PyTorch's default
# Bytes a pixel of a training sample: image 3, classes 8, and of the panoptic task weights 4,
# heatmap 4 and 4, offsets 8 and 4.
SAMPLE_BYTES = {"panoptic": 35, "semantic": 11}
TEST_IMAGE_BYTES = 3 * 1024 * 2048  # of an image to evaluate, as large as those of Cityscapes
MARGIN = 1.1  # measured steps of six experiments took 0.91 to 1.03 of it: docs/how-to/doctor.md
UNCOUNTED_HINT = "watch the peak of two steps (row: steps) against the memory that is there"


def check_packages(context: CheckContext) -> CheckResult:
    """Every package that `pyproject.toml` names is there, in a version that it allows."""
    python = f"Python {platform.python_version()}"
    try:
        required = metadata.requires("panoptic-dl") or []
    except metadata.PackageNotFoundError:
        return fail(f"{python}; the project itself is not installed", "make setup")
    problems = []
    for wanted in map(Requirement, required):
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


def check_device(context: CheckContext) -> CheckResult:
    """As many devices as asked for, which have the precision of training."""
    if context.launch_refused is not None:
        return fail(context.launch_refused, "see launch.num_gpus in docs/how-to/distributed.md")
    device = torch.device(context.device)
    check_precision("train.precision", context.train["precision"], device)
    found = describe_device(context.device)
    if context.num_processes > 1:
        found = f"{context.num_processes} processes, each on: {found}"
    if unused := gpus_unused(context.device, context.num_processes):
        return warn(
            f"{found}; {unused}", "see docs/start/install.md and docs/how-to/distributed.md"
        )
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
    found += f", as many again while it evaluates, {cores} cores"
    return warn(found, f"train.num_workers={share}") if workers > share else ok(found)


def amount(number: float) -> str:
    """Bytes for people: "1.5 GiB", "20 MiB"."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / 2**20:.0f} MiB"


def check_shared_memory(context: CheckContext) -> CheckResult | None:
    """Room for the batches that wait; without it training ends with a bus error."""
    workers = context.train["num_workers"]
    if not workers or not os.path.isdir(SHARED_MEMORY):
        return None
    height, width = context.sizes["crop_size"]
    sample = height * width * SAMPLE_BYTES.get(context.choice["task"], SAMPLE_BYTES["panoptic"])
    # Batches of training wait while an evaluation has as many loader processes of its own.
    both = context.images_per_pass * sample + TEST_IMAGE_BYTES
    needed = PREFETCHED * workers * context.num_processes * both
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{SHARED_MEMORY} has {amount(free)} free, batches that wait take {amount(needed)}"
    if needed <= free:
        return ok(found)
    return fail(
        found,
        f"train.num_workers={int(workers * free / needed)}, or in a container more of it: docker "
        f"run --shm-size={-(-needed // GIB)}g",
    )


def check_disk(context: CheckContext) -> CheckResult:
    """The free room of run_dir against the checkpoints that will be kept in it."""
    model = context.part("model")
    optimizer = context.part("optimizer")(model)
    size = checkpoint_bytes(model, optimizer, ema=bool(context.train["ema"]))
    count = context.checkpoint["kept"] + EXTRA_CHECKPOINTS
    needed = count * size + LOG_BYTES
    free = shutil.disk_usage(context.run_dir).free
    found = (
        f"{amount(free)} free in {context.run_dir}, {count} checkpoints of {amount(size)} and logs "
        f"take {amount(needed)}"
    )
    if needed > free:
        return fail(found, "make room, choose another run_dir, or checkpoint.kept=1")
    if 2 * needed > free:
        return warn(found, "make room, or choose another run_dir: other runs write, too")
    return ok(found)


def check_memory(context: CheckContext) -> CheckResult:
    """A step's weights, gradients and activations fit into the device's memory."""
    images = context.images_per_pass
    try:
        fixed, per_image = estimate_step(context)
    except (RuntimeError, NotImplementedError) as error:  # such as a model that looks at its data
        return warn(f"cannot be counted for this model: {str(error)[:200]}", UNCOUNTED_HINT)
    there = _available(context.device)
    share = there if context.device == "cuda" else there / context.num_processes
    total = fixed + images * per_image
    found = f"about {amount(total)} for {images} images a pass, {amount(share)} there"
    if share != there:
        found += f" for each of {context.num_processes} processes"
    if MARGIN * total <= 0.9 * share:
        return ok(found)
    others = "train.activation_checkpointing=true, train.precision=bf16"
    more = "more GPUs" if context.device == "cuda" else "a machine with more memory"
    hint = f"{more}; or all of: train.images_per_gpu=1, {others}"
    per_process = context.train["batch_size"] // context.num_processes
    for fewer in range(images - 1, 0, -1):
        if per_process % fewer == 0 and MARGIN * (fixed + fewer * per_image) <= 0.9 * share:
            hint = (
                f"train.images_per_gpu={fewer} (same batch, more passes); with larger ones: "
                f"{others}, {more}"
            )
            break
    if MARGIN * total > share:
        return fail(found, hint)
    return warn(f"{found}: it is tight", hint)


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
