"""Start a run's processes: one, one per GPU, several on the CPU, or join those of torchrun.

Where the machines of a run meet.

Processes that run.py starts, ends and outlives; and that do not outlive it.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import torch
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from panoptic_dl.core.parallel import count_cores, handling
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.launch.signals import STOPPING, tell_submitit


@dataclass
class Machines:
    """Several machines that train together, seen from one of them.

    Args:
        number: of machines.
        rank: of this one, from 0.
        url: tcp://HOST:PORT, with HOST the machine of rank 0; `auto`: found out, if it can be.

    Raises:
        ValueError: numbers that cannot be, or no address where all can meet.
    """

    number: int
    rank: int
    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.number, int) or self.number < 1:
            raise ValueError(f"launch.num_machines={self.number} must be a whole number, from 1")
        if not isinstance(self.rank, int) or not 0 <= self.rank < self.number:
            raise ValueError(
                f"launch.machine_rank={self.rank}: {self.number} machines have the ranks 0 to "
                f"{self.number - 1}"
            )
        if self.number > 1 and self.url == "auto":
            self.url = _address_from_slurm() or "auto"
        if self.url == "auto":
            if self.number > 1:
                raise ValueError(
                    "launch.num_machines needs a place to meet: launch.dist_url=tcp://HOST:PORT, "
                    "with HOST the machine of launch.machine_rank=0 and PORT a free one of it"
                )
        elif not re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/]+):\d{1,5}", self.url):
            raise ValueError(f"launch.dist_url={self.url} must be tcp://HOST:PORT")

    def must_be_one(self, starter: str) -> None:
        """Refuse numbers that compete with those of `starter`."""
        if self.number > 1:
            raise ValueError(
                f"{starter} knows the machines itself: leave launch.num_machines out, or {starter}"
            )

    def check_port(self) -> None:
        """Raise ValueError when the port of this machine, of rank 0, is taken."""
        if self.url == "auto" or self.rank != 0:
            return
        port = int(self.url.rpartition(":")[2])
        with socket.socket() as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                place.bind(("", port))
            except (OSError, OverflowError) as error:
                raise ValueError(
                    f"launch.dist_url={self.url}: port {port} cannot be used here ({error}); "
                    "choose another, on all machines"
                ) from None


def _address_from_slurm() -> str | None:
    """An address that all tasks of `srun` derive alike; None outside of SLURM.

    The port comes from the job's number, so that jobs that share a machine rarely collide.
    """
    host, job = os.environ.get("SLURM_LAUNCH_NODE_IPADDR"), os.environ.get("SLURM_JOB_ID")
    return f"tcp://{host}:{20000 + int(job) % 10000}" if host and job else None


ORPHANS_LIVE = 30.0  # seconds in which they may save and end by themselves


def start_children(
    work: Callable[..., Any],
    args: tuple[Any, ...],
    processes: int,
    machines: Machines,
    requeue: bool = False,
) -> None:
    """Call `work(*args)` in `processes` new processes that form one group with other machines'.

    A signal that stops training is passed on to them, once. When this process is killed they end.

    Raises:
        ProcessExitedException: the first that failed, with its exit code.
        KeyboardInterrupt: they died of a signal that was passed on.
    """
    machines.check_port()
    if machines.number > 1:
        print(
            f"Machine {machines.rank} of 0 to {machines.number - 1} waits for the others at "
            f"{machines.url}",
            file=sys.stderr,
            flush=True,
        )
    with _passing_signals_on() as received, _share_of_threads(processes):
        try:
            spawn(
                _Carried(work),
                processes,
                num_machines=machines.number,
                machine_rank=machines.rank,
                dist_url=machines.url,
                args=args,
            )
            return
        except ProcessExitedException as error:
            failure = error
    if received and failure.exit_code == ExitCode.SAVED and requeue:
        tell_submitit(received[0])
    if received and failure.exit_code < 0:
        raise KeyboardInterrupt
    raise failure


@contextlib.contextmanager
def _passing_signals_on() -> Iterator[list[int]]:
    """Send the children SIGTERM, SIGUSR1 and SIGUSR2; yield the signals as they come in.

    Ctrl-C in a terminal reaches the children without us, `kill -INT` does not: they are sent
    SIGTERM, which asks for the same and, unlike a second Ctrl-C, does no more when it comes twice.
    """
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        if number in received:
            return
        received.append(number)
        for child in multiprocessing.active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM if number == signal.SIGINT else number)

    with handling(STOPPING, forward):
        yield received


@contextlib.contextmanager
def _share_of_threads(processes: int) -> Iterator[None]:
    """Processes started inside share the cores, unless the user has set their number of threads.

    With more threads than cores two processes are many times slower than one.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, count_cores() // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


class _Carried:
    """A function on its way to a new process.

    cloudpickle, because in a job of joblib or submitit run.py is not the main module, and a
    function of it is found by no name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (cloudpickle.dumps(self.function), os.getpid(), ORPHANS_LIVE)


def _arrive(function: bytes, parent: int, seconds: float) -> Callable[..., Any]:
    """Unpack the function in the new process, before it waits for any other.

    PyTorch has the system send SIGINT when the parent dies: training saves and ends. A process that
    hangs, say in a collective operation, hears nothing; a thread ends it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="watches the parent").start()
    work: Callable[..., Any] = cloudpickle.loads(function)

    def work_and_part(*args: Any) -> None:
        work(*args)
        # A process that ends while gloo's threads run, or while others talk to it, aborts at times.
        distributed.barrier()
        distributed.destroy_process_group()

    return work_and_part


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
