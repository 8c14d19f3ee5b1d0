"""Share jobs out over processes: with progress, a clean end on Ctrl-C, and nobody left behind.

A worker ignores Ctrl-C, which a terminal sends to all; this process asks it to stop. It ends by
itself when this process is gone.

Spreads the making of samples over processes, with a progress line.

The workers are fresh interpreters that import nothing but this package: no fork of a process that
may hold a GPU and threads, no second run of the caller's main module. They stop by themselves when
the caller is gone.

How far a long loop over images is: a bar on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tqdm import tqdm

from panoptic_dl.core.errors import DatasetError

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


PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def count_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_samples(
    function: str, jobs: Sequence[dict[str, Any]], *, title: str, num_workers: int | None = None
) -> list[Any]:
    """Calls `function(**job)` for every job.

    Args:
        function: "module:name"; the result must be of JSON's types.
        jobs: keyword arguments of JSON's types, one dict a sample.
        title: what the progress line says.
        num_workers: processes; default one per core. 1 works in this process.
    Returns:
        The results in the order of the jobs.
    Raises:
        RuntimeError: a worker failed; the message holds what it wrote.
    """
    count = min(num_workers or count_cores(), max(len(jobs) // 4, 1))
    progress = ToyProgress(title, len(jobs))
    if count == 1:
        call = locate(function)
        results = []
        for job in jobs:
            results.append(call(**job))
            progress.advance()
        progress.close()
        return results

    gathered: list[Any] = [None] * len(jobs)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    paths = [str(PACKAGE_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    workers, threads, complaints = [], [], []
    try:
        for first in range(count):
            complaint = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaint,
                text=True,
                env=environment,
            )
            workers.append(process)
            complaints.append(complaint)
            task = {"function": function, "jobs": list(enumerate(jobs))[first::count]}
            thread = threading.Thread(target=attend, args=(process, task, gathered, progress))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        for process, complaint in zip(workers, complaints, strict=True):
            if process.wait() != 0:
                complaint.seek(0)
                raise RuntimeError(f"{title}: a worker failed.\n{complaint.read()[-4000:]}")
    finally:
        for process in workers:
            if process.poll() is None:
                process.terminate()
                process.wait()
        for thread in threads:
            thread.join()
        for complaint in complaints:
            complaint.close()
    progress.close()
    return gathered


def attend(
    process: subprocess.Popen[str], task: dict[str, Any], gathered: list[Any], progress: ToyProgress
) -> None:
    """Hands a worker its task and collects one line per finished job."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        json.dump(task, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        return
    for line in process.stdout:
        number, result = json.loads(line)
        gathered[number] = result
        progress.advance()
    process.stdout.close()


def work(source: TextIO, sink: TextIO) -> None:
    """A worker's whole life: read the task, do the jobs, write a line for each."""
    task = json.load(source)
    call = locate(task["function"])
    for number, job in task["jobs"]:
        result = call(**job)
        sink.write(json.dumps([number, result]) + "\n")
        # At once: a write to a caller that is gone ends this process.
        sink.flush()


def locate(function: str) -> Any:
    """The object that "module:name" names."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


class ToyProgress:
    """A line that counts up on a terminal, a line every few seconds elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.begin = self.last = time.monotonic()
        self.lock = threading.Lock()
        self.terminal = sys.stderr.isatty()
        self.say(f"{title}: {total} samples", end=False)

    def advance(self) -> None:
        """One more sample is done."""
        with self.lock:
            self.done += 1
            now = time.monotonic()
            if now - self.last >= (0.2 if self.terminal else 5.0):
                self.last = now
                self.say(f"{self.title}: {self.done}/{self.total}", end=False)

    def close(self) -> None:
        """All samples are done."""
        seconds = time.monotonic() - self.begin
        self.say(f"{self.title}: {self.total} samples made in {seconds:.1f} s", end=True)

    def say(self, text: str, *, end: bool) -> None:
        """Writes to standard error, over the line before on a terminal."""
        if self.terminal:
            sys.stderr.write(f"\r{text:<78}" + ("\n" if end else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    work(sys.stdin, sys.stdout)


logger = logging.getLogger(__name__)

PERIOD = 10.0  # seconds between lines


class BatchProgress:
    """Counts images; shows images a second and the time left."""

    def __init__(self, total: int | None, *, what: str, shown: bool = True) -> None:
        """
        Args:
            total: images to come, of this process; None: nobody knows.
            what: what is done to them, such as "evaluated".
            shown: False counts in silence, for all processes but one.
        """
        self.total, self.what, self.shown = total, what, shown
        self.done = 0
        self.started = self.spoken = time.perf_counter()
        self.bar: tqdm | None = None
        if shown and sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=what, unit=" images", dynamic_ncols=True)

    def add(self, number: int) -> None:
        """Count images that are done."""
        self.done += number
        if self.bar is not None:
            self.bar.update(number)
            return
        now = time.perf_counter()
        if self.shown and (now - self.spoken >= PERIOD or self.done == self.total):
            self.spoken = now
            logger.info("%s", self.line(now - self.started))

    def line(self, seconds: float) -> str:
        """What is said after so many seconds."""
        rate = self.done / max(seconds, 1e-9)
        if self.total is None:
            return f"{self.what} {self.done} images  {rate:.3g} images/s"
        left = datetime.timedelta(seconds=round((self.total - self.done) / max(rate, 1e-9)))
        return f"{self.what} {self.done}/{self.total} images  {rate:.3g} images/s  ETA {left}"

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
