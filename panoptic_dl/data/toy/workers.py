"""Spreads the making of samples over processes, with a progress line.

The workers are fresh interpreters that import nothing but this package: no fork of a process that
may hold a GPU and threads, no second run of the caller's main module. They stop by themselves when
the caller is gone.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

PACKAGE_ROOT = Path(__file__).resolve().parents[3]


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
    progress = Progress(title, len(jobs))
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
    process: subprocess.Popen[str], task: dict[str, Any], gathered: list[Any], progress: Progress
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


class Progress:
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
