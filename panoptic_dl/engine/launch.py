"""Start a run's processes: one, one per GPU, several on the CPU, or join those of torchrun."""

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.engine import launch as spawn
from detectron2.utils import comm
from torch import distributed

logger = logging.getLogger(__name__)


def launch(
    work: Callable[..., Any],
    *args: Any,
    num_gpus: int | None,
    num_cpu_processes: int = 1,
) -> Any:
    """Call `work(device, *args)` in every process of the run.

    Args:
        work: an importable function; its first argument is the process's `torch.device` by name.
        num_gpus: None: one if there is one, else the CPU. 0: the CPU. Else that many processes.
        num_cpu_processes: processes that train together over gloo when no GPU is used.

    Returns:
        What `work` returned when a single process ran here, else None.

    Raises:
        ValueError: a number that cannot be, or more GPUs than the machine has.
    """
    for name, value in (("num_gpus", num_gpus), ("num_cpu_processes", num_cpu_processes)):
        lowest = 1 if name == "num_cpu_processes" else 0
        if value is not None and (not isinstance(value, int) or value < lowest):
            raise ValueError(f"launch.{name}={value} must be a whole number, at least {lowest}")
    there = torch.cuda.device_count()
    if num_gpus is None:
        num_gpus = min(1, there)
    if num_gpus > there:
        raise ValueError(
            f"launch.num_gpus={num_gpus}, but this machine has {there}. "
            f"Choose launch.num_gpus={there}" + (" (the CPU)" if there == 0 else "")
        )
    device = "cuda" if num_gpus else "cpu"
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _join_torchrun(work, device, args)
    if num_gpus == 0 and num_cpu_processes > 1 and there > 0:
        raise ValueError(
            "several CPU processes cannot train together where GPUs are visible; hide them: "
            "CUDA_VISIBLE_DEVICES= python run.py ..."
        )
    processes = num_gpus or num_cpu_processes
    if processes == 1:
        return work(device, *args)
    previous = {s: signal.signal(s, _forward) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _share_of_threads(processes):
            spawn(work, processes, dist_url="auto", args=(device, *args))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return None


@contextlib.contextmanager
def _share_of_threads(processes: int) -> Iterator[None]:
    """Processes started inside share the cores, unless the user has set their number of threads.

    With more threads than cores two processes are many times slower than one.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _forward(number: int, frame: object) -> None:
    """Let the processes end themselves, checkpoint first; Ctrl-C reaches them from the terminal."""
    if number == signal.SIGTERM:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, number)


def _join_torchrun(work: Callable[..., Any], device: str, args: tuple[Any, ...]) -> Any:
    """Become one of the processes that torchrun started, on any number of machines."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    comm.create_local_process_group(local_size)
    try:
        return work(device, *args)
    finally:
        distributed.destroy_process_group()
