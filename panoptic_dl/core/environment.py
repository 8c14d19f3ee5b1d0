"""The machine: versions, devices, Detectron2's origin, memory.

`python -m panoptic_dl.core.environment` prints all but the memory.
"""

import contextlib
import ctypes
import glob
import importlib
import os
import platform
import re
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_dl.core.parallel import count_cores

if TYPE_CHECKING:  # the report starts without it
    import torch

PACKAGES = (
    "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "panopticapi-lite",
    "cityscapesScripts", "pycocotools", "fvcore", "pillow", "opencv-python-headless", "wandb",
)  # fmt: skip

TORCH_CURE = (
    "Update the driver that `nvidia-smi` names (CUDA 13 needs 580), or take torch 2.14 for CUDA "
    "12.6, for drivers from 525 and cards from compute capability 5.0 on: docs/start/install.md"
)


def describe() -> str:
    """One fact a line: project, Python, packages, Detectron2, devices."""
    import torch

    lines = [("panoptic-dl", version("panoptic-dl")), ("python", platform.python_version())]
    lines += [("platform", platform.platform()), ("detectron2", detectron2_origin())]
    lines += [(name, version(name)) for name in PACKAGES]
    lines += [("CPU cores", str(count_cores())), ("CUDA of torch", str(torch.version.cuda))]
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        lines.append((f"GPU {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"))
    if not torch.cuda.is_available():
        lines.append(("GPU", "none"))
    datasets = os.environ.get("DETECTRON2_DATASETS", "not set: ./datasets")
    lines.append(("DETECTRON2_DATASETS", datasets))
    return "\n".join(f"{name:24}{value}" for name, value in lines)


def check_gpus(number: int) -> None:
    """Raise ValueError, with the cure, where this PyTorch cannot use the first GPUs of the machine.

    NVML counts GPUs whose driver or kind the runtime refuses.
    """
    import torch

    if not number or not torch.version.cuda:
        return
    here = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    try:
        torch.cuda.init()
        found = [torch.cuda.get_device_capability(index) for index in range(number)]
    except (RuntimeError, AssertionError) as error:
        line = str(error).partition("\n")[0]
        raise ValueError(f"{here} cannot use the GPUs: {line}. {TORCH_CURE}") from None
    built = [name.partition("_") for name in torch.cuda.get_arch_list()]
    versions = [(kind, int(re.sub(r"\D", "", version))) for kind, _, version in built]
    for index, (major, minor) in enumerate(found):
        own = 10 * major + minor  # code for sm_80 runs on 8.0 to 8.9, compute_80 from 8.0 on
        if not any(n <= own and (kind == "compute" or n // 10 == major) for kind, n in versions):
            cure = TORCH_CURE if own < min(n for _, n in versions) else "Take a newer torch"
            raise ValueError(
                f"GPU {index} ({torch.cuda.get_device_name(index)}) has compute capability "
                f"{major}.{minor}; {here} has {', '.join(torch.cuda.get_arch_list())}. {cure}"
            )


def gpus_unused(device: str, processes: int) -> str | None:
    """Which GPUs a run leaves unused for which nobody has said how many to take; None: none."""
    import torch

    there = torch.cuda.device_count()
    if device == "cuda" and processes == 1 < there:
        return f"1 of {there} GPUs is used: launch.num_gpus={there} trains and evaluates on all"
    if there or "CUDA_VISIBLE_DEVICES" in os.environ or not glob.glob("/dev/nvidia[0-9]*"):
        return None
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return f"torch {torch.__version__} {built} sees none of this machine's GPUs. {TORCH_CURE}"


def describe_device(device: str) -> str:
    """What a measurement ran on: the GPU, or the processor and threads; and the torch version."""
    import torch

    name, threads = _device_name(device), torch.get_num_threads()
    if torch.device(device).type == "cpu":
        name += f", {threads} thread" + ("s" if threads > 1 else "")
    return f"{name}, torch {torch.__version__}"


def measured_on(device: str) -> dict[str, Any]:
    """Versions and the device's name, as `run.json` keeps them."""
    versions = {name: version(name) for name in ("torch", "numpy")}
    origin = {"detectron2": detectron2_origin(), "device": _device_name(device)}
    return {"python": platform.python_version(), **versions, **origin}


def git(*commands: str) -> list[str]:
    """The outputs of git commands in this checkout; ValueError if git refuses, in its own words."""
    folder = Path(__file__).resolve().parents[2]
    # Not the repository that the folder lies in, nor the one whose hook has started this.
    around = {"GIT_CEILING_DIRECTORIES": str(folder.parent), "LC_ALL": "C"}
    named = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    variables = {k: v for k, v in os.environ.items() if k not in named} | around
    outputs = []
    for command in commands:
        words = ["git", "-c", "color.ui=never", *command.split()]
        try:
            done = subprocess.run(words, cwd=folder, env=variables, capture_output=True)
        except OSError as error:
            raise ValueError("git is not installed") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise ValueError("not a git checkout" if "not a git repository" in said else said)
        outputs.append(done.stdout.decode(errors="replace"))
    return outputs


def _device_name(device: str) -> str:
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):  # on Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version(name: str) -> str:
    """The installed version of a distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def detectron2_origin() -> str:
    """Version and origin: an official build, or the Python part of sal-detectron2."""
    try:
        module = importlib.import_module("detectron2")
    except ImportError as error:
        return f"cannot be imported: {error}"
    compiled = any(Path(module.__file__ or "").parent.glob("_C.*"))
    sal = version("sal-detectron2")
    origin = "an official build" if sal == "not installed" else f"sal-detectron2 {sal}"
    operators = "with" if compiled else "without"
    return f"{module.__version__} ({origin}, {operators} compiled operators)"


def reset_peak_memory(device: "torch.device") -> float:
    """Forget peaks so far; return MiB in use now, on the device (of the process, for the CPU).

    Memory that was freed but kept for reuse is given back first, for it would hide a peak.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc and Linux only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    return _status("VmRSS") or 0.0


def host_memory() -> float:
    """MiB of this process now (on Linux; elsewhere at most so far), without its loader workers."""
    return _status("VmRSS") or _peak_rss()


def peak_host_memory() -> float:
    """Peak MiB of this process since `reset_peak_memory` (on Linux; elsewhere since its start)."""
    return _status("VmHWM") or _peak_rss()


def peak_memory(device: "torch.device") -> float:
    """Peak MiB since `reset_peak_memory` on the device; for the CPU that of the process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_host_memory()


def _peak_rss() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _status(key: str) -> float | None:
    """MiB of a line of this process's status, on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith(key)), None)
    return None if kib is None else int(kib) / 1024


if __name__ == "__main__":
    print(describe())
