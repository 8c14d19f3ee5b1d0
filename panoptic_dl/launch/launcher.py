"""Start a run's processes: one, one per GPU, several on the CPU, or join those of torchrun."""

import os
import re
import socket
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.errors import STOPPING
from panoptic_dl.core.files import PROGRAM
from panoptic_dl.core.parallel import (
    ORPHANS_LIVE,
    count_cores,
    end_with,
    passing_signals_on,
)
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.core.settings import LaunchSettings
from panoptic_dl.launch.signals import notify_submitit


def launch(work: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call `work(device, *args)` in every process of the run; `settings` are those of `launch`.

    Signals that stop training are passed on to processes that are started here, once. When this
    process is killed they end. Returns what `work` returned where one process ran here, else None.

    Raises ValueError: a number or address that cannot be, or more GPUs than the machine has;
    ProcessExitedException: a process that was started here failed, after its message;
    KeyboardInterrupt: a signal ended processes that had nothing to save.
    """
    numbers = LaunchSettings(**settings)
    num_machines, machine_rank = numbers.num_machines, numbers.machine_rank
    url = _meeting_point(num_machines, machine_rank, numbers.dist_url)
    there = torch.cuda.device_count()
    wanted = min(1, there) if numbers.num_gpus is None else numbers.num_gpus
    if wanted > there:
        raise ValueError(
            f"launch.num_gpus={wanted}, but this machine has {there}. "
            f"Choose launch.num_gpus={there}" + (" (the CPU)" if there == 0 else "")
        )
    device = "cuda" if wanted else "cpu"
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if num_machines > 1:
            raise ValueError(
                "torchrun knows the machines itself: leave launch.num_machines out, or torchrun"
            )
        return _join_torchrun(work, device, numbers.num_gpus, args)
    processes = wanted or numbers.num_cpu_processes
    if processes * num_machines == 1:
        return work(device, *args)
    if device == "cpu" and there > 0:  # Detectron2 would choose NCCL
        raise ValueError(
            "several CPU processes cannot train together where GPUs are visible; hide them: "
            f"CUDA_VISIBLE_DEVICES= {PROGRAM} ..."
        )
    if machine_rank == 0 and url != "auto":
        _check_port(url)
    if num_machines > 1:
        print(f"Machine {machine_rank} waits for the others at {url}", file=sys.stderr, flush=True)
    # With more threads than cores processes are far slower.
    threads = {"OMP_NUM_THREADS": str(max(1, count_cores() // processes))}
    with passing_signals_on() as received, patch.dict(os.environ, threads | {**os.environ}):
        try:
            spawn(
                _work_in_child,
                processes,
                num_machines=num_machines,
                machine_rank=machine_rank,
                dist_url=url,
                args=(work, os.getpid(), ORPHANS_LIVE, device, *args),
            )
        except ProcessExitedException as error:
            if received and numbers.requeue and error.exit_code == ExitCode.SAVED:
                notify_submitit(received[0])
            if error.exit_code < 0 and (received or -error.exit_code in STOPPING):
                raise KeyboardInterrupt from None
            raise


def _meeting_point(num_machines: int, machine_rank: int, url: str) -> str:
    """The address where the processes of all machines meet; "auto" on a single machine."""
    if machine_rank >= num_machines:
        raise ValueError(
            f"launch.machine_rank={machine_rank}: {num_machines} machines have the ranks 0 to "
            f"{num_machines - 1}"
        )
    if url != "auto":
        if not re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/]+):\d{1,5}", url):
            raise ValueError(f"launch.dist_url={url} must be tcp://HOST:PORT")
        return url
    if num_machines == 1:
        return url
    # All tasks of `srun` derive the same address. The port comes from the job's number, so that
    # jobs that share a machine rarely collide.
    host, job = os.environ.get("SLURM_LAUNCH_NODE_IPADDR"), os.environ.get("SLURM_JOB_ID")
    if not host or not job:
        raise ValueError(
            "launch.num_machines needs a place to meet: launch.dist_url=tcp://HOST:PORT, "
            "with HOST the machine of launch.machine_rank=0 and PORT a free one of it"
        )
    return f"tcp://{host}:{20000 + int(job) % 10000}"


def _check_port(url: str) -> None:
    """Raise ValueError when the port is taken on this machine, which is that of rank 0."""
    port = int(url.rpartition(":")[2])
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(("", port))
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"launch.dist_url={url}: port {port} cannot be used here ({error}); choose "
                "another, on all machines"
            ) from None


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


def _work_in_child(work: Callable[..., Any], parent: int, seconds: float, *args: Any) -> None:
    """Call `work(*args)` in a new process, which ends some time after its parent at the latest."""
    # On Linux, PyTorch has the system send SIGINT before: training saves and ends.
    end_with(parent, seconds)
    work(*args)
    # A process that ends while gloo's threads run, or while others talk to it, aborts at times.
    distributed.barrier()
    distributed.destroy_process_group()
