"""Signals that stop a run, after the step under way, and queue its job again.

SLURM sends the signal that the batch script asks for (`--signal=USR1@120`) before the time is up;
submitit asks for SIGUSR2. These two requeue. SIGTERM does not: that is `scancel`, which means it,
or preemption, after which SLURM itself requeues the job.
"""

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

from detectron2.utils import comm

from panoptic_dl.core.errors import STOPPING, leave
from panoptic_dl.core.parallel import handling, interrupt, unheeded
from panoptic_dl.core.run_folder import Requeued

logger = logging.getLogger(__name__)

REQUEUED_ON = (signal.SIGUSR1, signal.SIGUSR2)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt, once, for every signal that stops a run.

    By default the others kill a process without a message. Training replaces these handlers while
    it lasts. Other handlers, such as submitit's, stay.
    """
    asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal asked
        if not asked or number == signal.SIGINT:
            asked = True
            raise KeyboardInterrupt

    defaults = (signal.SIG_DFL, signal.default_int_handler, interrupt, leave)
    with handling([n for n in STOPPING if signal.getsignal(n) in defaults], stop):
        yield


class Interrupted(KeyboardInterrupt):
    """Stopped on request with nothing lost: the same run goes on from its last checkpoint.

    `signal` is the number of the signal that asked for it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopRequest:
    """Remembers the first signal that comes during `listen`; a second Ctrl-C interrupts at once.

    Loader workers are forked meanwhile and inherit the handlers, so that signals that are sent to
    all processes of a run do not kill them.
    """

    def __init__(self) -> None:
        self.signal = 0  # the first that came
        self._at_once = False

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals inside a `with` block, if it is in the main thread."""
        with handling(STOPPING, self._take):
            yield
        if self.signal:
            unheeded.append(self.signal)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
        if self._at_once:
            raise Interrupted(self.signal)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise Interrupted for a signal inside, or before, as there is nothing to save."""
        before, self._at_once = self._at_once, True
        try:
            if self.signal:
                raise Interrupted(self.signal)
            yield
        finally:
            self._at_once = before


@contextlib.contextmanager
def requeue_when_stopped(requeue: bool) -> Iterator[None]:
    """Queue the job again if what is inside was stopped and has saved."""
    try:
        yield
    except Interrupted as stop:
        if not requeue:
            pass
        elif stop.signal not in REQUEUED_ON:
            logger.warning("Not queued again: only SIGUSR1 and SIGUSR2 ask for that")
        elif "SUBMITIT_EXECUTOR" in os.environ:
            notify_submitit(stop.signal)
        elif comm.is_main_process():
            # Processes that end sooner have the launcher end this one, too.
            with handling((signal.SIGTERM, *REQUEUED_ON), signal.SIG_IGN):
                _requeue_job()
        raise


def _requeue_job() -> None:
    """Ask SLURM to queue this job again; the log has whether it agreed."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        logger.warning("Not queued again: this is no SLURM job; the same command goes on")
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = os.environ["SLURM_ARRAY_JOB_ID"] + "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    command = ["scontrol", "requeue", job]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        logger.info("Queued again: `%s`", " ".join(command))
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip()
        logger.warning(
            f"SLURM did not queue the job again: `{' '.join(command)}`: {said}. Everything is "
            "saved: submit the same command yourself (and allow it with `sbatch --requeue`)"
        )


def notify_submitit(number: int) -> None:
    """Call the handler of submitit for this signal, which queues the job again, if there is one.

    It ends this process with `Requeued`. Processes that the launcher started have no such handler.
    """
    handler = signal.getsignal(number)
    if callable(handler) and str(getattr(handler, "__module__", "")).startswith("submitit."):
        try:
            handler(number, None)
        except SystemExit as stop:
            raise Requeued(stop.code) from None
