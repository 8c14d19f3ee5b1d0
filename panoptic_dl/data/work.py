"""Share jobs out over processes: with progress, a clean end on Ctrl-C, and nobody left behind.

A worker ignores Ctrl-C, which a terminal sends to all; this process asks it to stop. It ends by
itself when this process is gone.
"""

import contextlib
import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from types import FrameType
from typing import Any

from tqdm import tqdm

from panoptic_dl.data.errors import DatasetError

Say = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_ORPHANS = 1.0

_stop: Any = None  # in a worker: the event that asks it to stop


class Stopped(Exception):
    """A worker was asked to stop in the middle of a job."""


class Progress:
    """A bar on a terminal, a line now and then elsewhere: what is done, and the time left.

    Args:
        title: what is done, before each line.
        total: jobs, or bytes, to come.
        say: gets the lines.
        unit: of the total, for people: "" for jobs, "B" for bytes.
    """

    def __init__(self, title: str, total: int, say: Say, unit: str = "") -> None:
        self.title, self.total, self.say, self.unit = title, total, say, unit
        self.done = 0
        self.start = self.last = time.monotonic()
        self.bar: tqdm | None = None

    def add(self, number: int) -> None:
        """Count what is done."""
        self.done += number
        if (
            self.bar is None and sys.stderr.isatty()
        ):  # only now: a bar has a thread, no good to fork
            self.bar = tqdm(
                total=self.total,
                desc=self.title,
                unit=self.unit or "it",
                unit_scale=bool(self.unit),
                dynamic_ncols=True,
            )
        if self.bar is not None:
            self.bar.update(number)
            return
        now = time.monotonic()
        if self.done == self.total or now - self.last > SECONDS_BETWEEN_LINES:
            self.last = now
            self.say(self.line(now - self.start))

    def line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        done, total = (
            (size_text(self.done), size_text(self.total))
            if self.unit == "B"
            else (str(self.done), str(self.total))
        )
        text = f"{self.title}: {done} of {total}"
        if self.done < self.total:
            left = seconds / max(self.done, 1) * (self.total - self.done)
            text += f", {datetime.timedelta(seconds=round(left))} left"
        return text

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def share_out(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], num_workers: int
) -> Generator[Any, None, None]:
    """Call `function(*job)` for each of the jobs and yield the results, in the order of the jobs.

    When the loop over them ends early (an error, Ctrl-C), jobs under way are asked to stop through
    `stop_if_asked`, and waited for. `contextlib.closing` makes that certain.

    Args:
        function: of a module, to be found by the processes.
        num_workers: processes; 1 works in this one.

    Raises:
        DatasetError: a process was killed.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    stop = context.Event()
    with ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin, initargs=(stop, os.getpid())
    ) as pool:
        try:
            yield from pool.map(partial(_do, function), *zip(*jobs, strict=True))
        except BrokenProcessPool as error:
            raise DatasetError(
                f"one of {num_workers} processes was killed, mostly because memory ran out: take "
                "fewer (--workers); the same command goes on from here"
            ) from error
        finally:
            with _deaf_to_ctrl_c():
                stop.set()
                pool.shutdown(cancel_futures=True)


def stop_if_asked() -> None:
    """Raise `Stopped` in a worker whose work is no longer wanted; for long jobs."""
    if _stop is not None and _stop.is_set():
        raise Stopped


def size_text(number: float) -> str:
    """Bytes for people, in powers of 1000: "11.6 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 999.5 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"


def _begin(stop: Any, parent: int) -> None:
    """Set a worker up."""
    global _stop
    _stop = stop
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)  # as the pool ends its workers
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


def _do(function: Callable[..., Any], *job: Any) -> Any:
    try:
        return function(*job)
    except SystemExit:  # the job has cleaned up; the pool would have its worker go on
        os._exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(SECONDS_OF_ORPHANS)
    os._exit(1)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A second Ctrl-C must not leave workers behind; they need a moment only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
