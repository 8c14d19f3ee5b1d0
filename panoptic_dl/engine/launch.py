"""Start a run's processes: one, one per GPU, several on the CPU, or join those of torchrun."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed

from .children import start_children
from .machines import Machines


def launch(
    work: Callable[..., Any],
    *args: Any,
    num_gpus: int | None,
    num_cpu_processes: int = 1,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    requeue: bool = False,
) -> Any:
    """Call `work(device, *args)` in every process of the run.

    Args:
        work: its first argument is the process's `torch.device` by name.
        num_gpus: of this machine. None: one if there is one, else the CPU. 0: the CPU.
        num_cpu_processes: of this machine, training together over gloo when no GPU is used.
        num_machines: that call this together, each with the same number of processes.
        machine_rank: of this one, from 0.
        dist_url: tcp://HOST:PORT on machine 0, where all meet; `auto` on one machine or in SLURM.
        requeue: tell submitit, where it started us, once all is saved (see `requeue.py`).

    Returns:
        What `work` returned when a single process ran here, else None.

    Raises:
        ValueError: a number or address that cannot be, or more GPUs than the machine has.
        ProcessExitedException: a process that was started here failed, and has said why.
        KeyboardInterrupt: a signal ended processes that had nothing to save.
    """
    for name, value in (("num_gpus", num_gpus), ("num_cpu_processes", num_cpu_processes)):
        lowest = 1 if name == "num_cpu_processes" else 0
        if value is not None and (not isinstance(value, int) or value < lowest):
            raise ValueError(f"launch.{name}={value} must be a whole number, at least {lowest}")
    machines = Machines(num_machines, machine_rank, dist_url)
    there = torch.cuda.device_count()
    wanted = min(1, there) if num_gpus is None else num_gpus
    if wanted > there:
        raise ValueError(
            f"launch.num_gpus={wanted}, but this machine has {there}. "
            f"Choose launch.num_gpus={there}" + (" (the CPU)" if there == 0 else "")
        )
    device = "cuda" if wanted else "cpu"
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        machines.must_be_one("torchrun")
        return _join_torchrun(work, device, num_gpus, args)
    if multiprocessing.get_start_method(allow_none=True) == "loky":  # in a job of joblib
        multiprocessing.set_start_method(None, force=True)  # neither PyTorch nor loaders know it
    processes = wanted or num_cpu_processes
    if processes * num_machines == 1:
        return work(device, *args)
    if device == "cpu" and there > 0:  # Detectron2 would choose NCCL
        raise ValueError(
            "several CPU processes cannot train together where GPUs are visible; hide them: "
            "CUDA_VISIBLE_DEVICES= python run.py ..."
        )
    start_children(work, (device, *args), processes, machines, requeue)
    return None


def _join_torchrun(
    work: Callable[..., Any], device: str, num_gpus: int | None, args: tuple[Any, ...]
) -> Any:
    """Become one of the processes that torchrun started, on any number of machines."""
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if device == "cuda":
        there = torch.cuda.device_count()
        if local_size > there or num_gpus not in (None, local_size):
            asked = "" if num_gpus is None else f" and launch.num_gpus={num_gpus}"
            raise ValueError(
                f"torchrun starts {local_size} processes on this machine{asked}, which has {there} "
                "GPUs: one process per GPU, --nproc-per-node as launch.num_gpus"
            )
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    try:
        return work(device, *args)
    finally:
        distributed.destroy_process_group()
