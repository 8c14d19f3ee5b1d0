"""What a person sees of a training run: a progress bar on a terminal, plain lines elsewhere.

Peak memory from a moment on: of the GPU where one is in use, of this process on the host.
"""

import contextlib
import ctypes
import datetime
import logging
import resource
import sys
import time
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from tqdm import tqdm

logger = logging.getLogger(__name__)


class ConsoleWriter(EventWriter):
    """Print losses, learning rate, seconds per iteration, data time, memory and time left.

    Losses and times are medians over the iterations since the line before. On a terminal a bar is
    redrawn in place; metrics.json keeps every line's figures.
    """

    def __init__(self, max_iter: int, period: int) -> None:
        self.max_iter, self.period = max_iter, period
        self.bar: tqdm | None = None
        self.seconds: float | None = None
        self.last: tuple[int, float] | None = None

    def write(self) -> None:
        storage = get_event_storage()
        done = storage.iter + 1
        line = self._line(storage, done)
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(total=self.max_iter, initial=done, unit="it")
            self.bar.n = done
            self.bar.set_postfix_str(line)
        else:
            logger.info("iteration %d/%d  %s", done, self.max_iter, line)

    def _line(self, storage: EventStorage, done: int) -> str:
        histories = storage.histories()
        parts = [
            f"{name.removeprefix('loss_')} {history.median(self.period):.4g}"
            for name, history in histories.items()
            if name.startswith("loss_") or name == "total_loss"
        ]
        if "lr" in histories:
            parts.append(f"lr {histories['lr'].latest():.3g}")
        seconds = self._seconds_per_iteration(done)
        if seconds:
            left = datetime.timedelta(seconds=int(seconds * (self.max_iter - done)))
            parts.append(f"{seconds:.3f} s/iter")
            parts.append(f"data {histories['data_time'].median(self.period):.3f} s")
            parts.append(f"ETA {left}")
        parts.append(f"memory {_peak_memory():.0f} MiB")
        return "  ".join(parts)

    def _seconds_per_iteration(self, done: int) -> float | None:
        now = time.perf_counter()
        if self.last is not None and done > self.last[0]:
            self.seconds = (now - self.last[1]) / (done - self.last[0])
        self.last = (done, now)
        return self.seconds

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _peak_memory() -> float:
    """MiB at most so far: of the GPU when one is in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def start(device: torch.device) -> float:
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
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_host() -> float:
    """Peak MiB of this process since `start` (on Linux; since its beginning elsewhere)."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def peak_device(device: torch.device) -> float:
    """Peak MiB since `start` on the device; for the CPU that of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_host()


def _status(key: str) -> float | None:
    """MiB of a line of this process's status."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith(key)), None)
    return None if kib is None else int(kib) / 1024
