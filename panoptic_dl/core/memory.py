"""Memory in MiB: of this process on the host, and of a GPU; peaks from a moment on."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import torch


def reset_peaks(device: torch.device) -> float:
    """Forget peaks so far; return MiB in use now, on the device (of the process, for the CPU).

    Memory that was freed but kept for reuse is given back first, for it would hide a peak.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc and Linux only
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    return _status("VmRSS") or 0.0


def host() -> float:
    """MiB of this process now (on Linux; elsewhere at most so far), without its loader workers."""
    return _status("VmRSS") or _peak_rss()


def peak_host() -> float:
    """Peak MiB of this process since `reset_peaks` (on Linux; since its beginning elsewhere)."""
    return _status("VmHWM") or _peak_rss()


def peak_device(device: torch.device) -> float:
    """Peak MiB since `reset_peaks` on the device; for the CPU that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_host()


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
