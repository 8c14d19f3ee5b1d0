"""Processes that run.py starts, ends and outlives; and that do not outlive it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
from detectron2.engine import launch as spawn
from torch import distributed
from torch.multiprocessing import ProcessExitedException

from .exit_codes import ExitCode
from .machines import Machines
from .requeue import tell_submitit
from .signals import STOPPING

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

    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield received
        return
    previous = {number: signal.signal(number, forward) for number in STOPPING}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
