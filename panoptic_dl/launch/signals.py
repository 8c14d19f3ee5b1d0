"""Signals that ask a run to stop, while it has nothing to save.

Ctrl-C and the signals of job managers end a run after the step under way, with a checkpoint.

A SLURM job that is about to end saves, and queues again to go on.

SLURM sends the signal that the batch script asks for (`--signal=USR1@120`) before the time is up;
submitit asks for SIGUSR2. These two requeue. SIGTERM does not: that is `scancel`, which means it,
or preemption, after which SLURM itself requeues the job.
"""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from panoptic_dl.core.run_folder import Requeued

# SLURM warns with what --signal says, mostly SIGUSR1; submitit uses SIGUSR2; both end in SIGTERM.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, every signal that stops a run does what Ctrl-C does: KeyboardInterrupt, once.

    By themselves the others kill a process, without a word. Training puts its own handlers in
    place of these while it lasts. A handler that somebody else has set stays, such as submitit's.
    """
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if not asked or number == signal.SIGINT:
            asked = True
            raise KeyboardInterrupt

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOPPING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """Stopped on request with nothing lost: the same run goes on from its last checkpoint.

    `signal` is the number of the signal that asked for it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopRequest:
    """Listens for signals from `listen` to its end. A second Ctrl-C stops at once, unsaved.

    Loader workers are forked while this listens and inherit the handlers: signals that are sent to
    all processes of a run do not kill them.
    """

    def __init__(self) -> None:
        self.signal = 0  # the first that came
        self._at_once = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Take the signals over, in the main thread; afterwards they are whose they were."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous: dict[signal.Signals, Any] = {s: signal.signal(s, self._take) for s in STOPPING}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self._at_once:
            raise Interrupted(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside there is nothing to save: a signal, now or before, raises Interrupted."""
        before, self._at_once = self._at_once, True
        try:
            if self.signal:
                raise Interrupted(self.signal)
            yield
        finally:
            self._at_once = before


class StopOnSignal(HookBase):
    """Save and stop after the step in which the processes told each other of a signal."""

    def __init__(self, save: Callable[[], None], run_dir: str) -> None:
        self.save, self.run_dir = save, run_dir

    def after_step(self) -> None:
        number = self.trainer.agreed_signal
        if not number or self.trainer.iter + 1 >= self.trainer.max_iter:
            return  # after the last step all is saved anyway
        self.save()
        logger.warning(
            "Stopped by %s after iteration %d of %d; continue with the same command and: "
            "run_dir=%s resume=true",
            signal.Signals(number).name,
            self.trainer.iter + 1,
            self.trainer.max_iter,
            self.run_dir,
        )
        raise Interrupted(number)


REQUEUED_ON = (signal.SIGUSR1, signal.SIGUSR2)


def check_requeue(requeue: bool, resume: bool | str, same_folder: bool) -> None:
    """Refuse `launch.requeue=true` where the command, started again, would not go on.

    Args:
        requeue: `launch.requeue`.
        resume: of the run.
        same_folder: whether the command started again has the same output folder.

    Raises:
        ValueError: with the override that is missing.
    """
    if not requeue:
        return
    if resume != "auto":
        raise ValueError(
            f"launch.requeue=true starts the same command again: it needs resume=auto, not "
            f"resume={str(resume).lower()}"
        )
    if not same_folder:
        raise ValueError(
            "launch.requeue=true starts the same command again, which must find its folder: name "
            "one without the time in it, run_dir=FOLDER (a sweep: hydra.sweep.dir=FOLDER)"
        )


@contextlib.contextmanager
def requeue_when_stopped(requeue: bool) -> Iterator[None]:
    """Around the work of each process: queue the job again when it was stopped and has saved."""
    try:
        yield
    except Interrupted as stop:
        if requeue:
            _requeue(stop.signal)
        raise


def _requeue(number: int) -> None:
    if number not in REQUEUED_ON:
        logger.warning("Not queued again: only SIGUSR1 and SIGUSR2 ask for that")
    elif "SUBMITIT_EXECUTOR" in os.environ:
        tell_submitit(number)
    elif comm.is_main_process():
        with _deaf():  # those who end sooner have this process ended, too
            requeue_job()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    previous = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, *REQUEUED_ON)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def requeue_job() -> bool:
    """Ask SLURM to queue this job again; say in the log how it went.

    Returns:
        Whether SLURM agreed. If not, the run is saved all the same.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        logger.warning("Not queued again: this is no SLURM job; the same command goes on")
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        problem = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    if problem:
        logger.warning(
            "SLURM did not queue the job again: `%s`: %s. Everything is saved: submit the same "
            "command yourself (and allow it with `sbatch --requeue`)",
            " ".join(command),
            problem,
        )
        return False
    logger.info("Queued again: `%s`", " ".join(command))
    return True


def tell_submitit(number: int) -> None:
    """Let submitit, which waited for this signal before training took it over, queue us again.

    Its handler ends this process; in those that we started ourselves there is none of it, and
    nothing happens.
    """
    handler = signal.getsignal(number)
    if callable(handler) and str(getattr(handler, "__module__", "")).startswith("submitit."):
        try:
            handler(number, None)
        except SystemExit as stop:
            raise Requeued(stop.code) from None
