"""A SLURM job that is about to end saves, and queues again to go on.

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

from detectron2.utils import comm

from .interrupt import Interrupted

logger = logging.getLogger(__name__)
REQUEUED_ON = (signal.SIGUSR1, signal.SIGUSR2)


class Requeued(SystemExit):
    """This process ends, all is saved, and its job is in the queue again."""


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
