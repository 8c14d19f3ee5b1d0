"""Start a run's processes: one, one per GPU, several on the CPU, or join those of torchrun."""

import os
import re
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any
from unittest.mock import patch

import torch
from detectron2.utils import comm
from torch import distributed
from torch.multiprocessing import ProcessContext, ProcessExitedException, start_processes

from panoptic_dl.core.environment import check_gpus, gpus_unused
from panoptic_dl.core.errors import STOPPING
from panoptic_dl.core.parallel import ORPHANS_LIVE, count_cores, end_with, passing_signals_on
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.core.settings import LaunchSettings
from panoptic_dl.launch.machines import GRACE, GRACE_OF_SAVED, LostMachine, Machines
from panoptic_dl.launch.signals import notify_submitit


def launch(work: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Call `work(device, *args)` in every process of the run; `settings` are those of `launch`.

    Signals that stop training are passed on to processes that are started here, once. When this
    process is killed they end. Returns what `work` returned where one process ran here, else None.

    Raises ValueError: a number or address that cannot be, GPUs that the machine does not have or
    PyTorch cannot use, machines that do not fit together or do not come;
    ProcessExitedException: a process that was started here failed, after its message;
    KeyboardInterrupt: a signal ended processes that had nothing to save.
    """
    numbers = LaunchSettings(**settings)
    num_machines, machine_rank = numbers.num_machines, numbers.machine_rank
    place: dict[str, Any] = {"timeout": timedelta(minutes=numbers.timeout_minutes)}
    url = _meeting_point(num_machines, machine_rank, numbers.dist_url)
    there = torch.cuda.device_count()
    wanted = min(1, there) if numbers.num_gpus is None else numbers.num_gpus
    if wanted > there:
        why = gpus_unused("cpu", 1)  # a driver that does not work
        raise ValueError(
            f"launch.num_gpus={wanted}, but this machine has {there}. "
            f"Choose launch.num_gpus={there}{'' if there else ' (the CPU)'}{f'. {why}' * bool(why)}"
        )
    check_gpus(wanted)
    device = "cuda" if wanted else "cpu"
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        if num_machines > 1:
            raise ValueError(
                "torchrun knows the machines itself: leave launch.num_machines out, or torchrun"
            )
        return _join_torchrun(place, numbers.num_gpus, device, work, *args)
    _check_starter(num_machines)
    processes = wanted or numbers.num_cpu_processes
    if processes * num_machines == 1:
        return work(device, *args)
    # With more threads than cores processes are far slower.
    threads = {"OMP_NUM_THREADS": str(max(1, count_cores() // processes))}
    place |= {"init_method": url, "world_size": processes * num_machines}
    own = (os.getpid(), ORPHANS_LIVE, machine_rank * processes, processes, place, device, work)
    with Machines(url, machine_rank, num_machines, processes, numbers.timeout_minutes) as machines:
        try:
            with passing_signals_on() as received, patch.dict(os.environ, threads | {**os.environ}):
                context = start_processes(_work_in_child, own + args, processes, join=False)
                while context.sentinels:
                    wait([*context.sentinels], 0.5)
                    saved = any(each.exitcode == ExitCode.SAVED for each in context.processes)
                    context.join(0, GRACE_OF_SAVED if received or saved else GRACE)
                    machines.check()
        except LostMachine:
            _end(context)
            raise
        except ProcessExitedException as error:
            machines.check()  # another one has failed before
            if received and numbers.requeue and error.exit_code == ExitCode.SAVED:
                notify_submitit(received[0])  # its handler is there again
            if error.exit_code < 0 and (received or -error.exit_code in STOPPING):
                raise KeyboardInterrupt from None
            raise


def _end(context: ProcessContext) -> None:
    """Let the processes of this machine end by themselves; kill those that do not."""
    deadline = time.monotonic() + GRACE
    for process in context.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()


def _meeting_point(num_machines: int, machine_rank: int, url: str) -> str:
    """The address where the processes of all machines meet."""
    if machine_rank >= num_machines:
        raise ValueError(
            f"launch.machine_rank={machine_rank}: {num_machines} machines have the ranks 0 to "
            f"{num_machines - 1}"
        )
    if url != "auto" and not re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/]+):\d{1,5}", url):
        raise ValueError(f"launch.dist_url={url} must be tcp://HOST:PORT")
    if num_machines == 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            return f"tcp://127.0.0.1:{free.getsockname()[1]}"
    if url != "auto":
        return url
    # All tasks of `srun` derive the same address. The port comes from the job's number, so that
    # jobs that share a machine rarely collide.
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST")
    job = os.environ.get("SLURM_JOB_ID")
    if not nodes or not job:
        raise ValueError(
            "launch.num_machines needs a place to meet: launch.dist_url=tcp://HOST:PORT, "
            "with HOST the machine of launch.machine_rank=0 and PORT a free one of it"
        )
    return f"tcp://{_first_node(nodes)}:{20000 + int(job) % 10000}"


def _first_node(nodes: str) -> str:
    """The first name of a list of SLURM, such as "gpu07" of "gpu[07-09,12],big1"."""
    first = re.match(r"(\[[^\]]*\]|[^,\[])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def _check_starter(num_machines: int) -> None:
    """Raise ValueError where others have started several processes that would not find together."""
    tasks, nodes, world = (
        int(os.environ.get(name) or 1)
        for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "WORLD_SIZE")
    )
    if tasks > max(nodes, num_machines):
        raise ValueError(
            f"srun has started {tasks} processes on {nodes} machine(s), each a run of its own: "
            "`srun --ntasks-per-node=1 --kill-on-bad-exit=1 ... launch=slurm`, as a run starts one "
            "process per GPU itself (in a shell that srun started: unset SLURM_STEP_NUM_TASKS)"
        )
    if world > num_machines and "RANK" in os.environ:
        raise ValueError(
            f"WORLD_SIZE={world} and RANK are set, as in Kubeflow's PyTorchJob: each process would "
            "be a run of its own. Add launch.num_machines=$WORLD_SIZE launch.machine_rank=$RANK "
            "launch.dist_url=tcp://$MASTER_ADDR:$MASTER_PORT, or start with torchrun"
        )


def _join_torchrun(place: dict[str, Any], num_gpus: int | None, device: str, *work: Any) -> Any:
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
    return _in_group(local_rank, local_size, place, device, *work)


def _work_in_child(local_rank: int, parent: int, seconds: float, first: int, *group: Any) -> None:
    """Be one of the processes of this machine, which ends soon after its parent at the latest."""
    # On Linux, PyTorch has the system send SIGINT before: training saves and ends.
    end_with(parent, seconds)
    local_size, place, *work = group
    _in_group(local_rank, local_size, place | {"rank": first + local_rank}, *work)


def _in_group(
    local_rank: int, size: int, place: dict[str, Any], device: str, work: Any, *args: Any
) -> Any:
    """Call `work(device, *args)` in a process of a group, one of `size` on this machine.

    The group is destroyed only after success: NCCL would wait for the others, which wait for this.
    """
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", **place)
    comm.create_local_process_group(size)
    comm.synchronize()
    result = work(device, *args)
    # A process that ends while gloo's threads run, or while others talk to it, aborts at times.
    comm.synchronize()
    distributed.destroy_process_group()
    return result
