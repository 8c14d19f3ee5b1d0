"""Work is shared out, stopped at once, and nobody is left behind."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from types import SimpleNamespace

import pytest

from panoptic_dl.core import parallel
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map, shows_bars, size_text
from tests.core.long_job import long


def double(number):
    return 2 * number


def fail(number):
    if number == 3:
        raise DatasetError(f"{number}.png is damaged")
    return number


def die(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_results_come_in_the_order_of_the_jobs(num_workers, count):
    jobs = [(i,) for i in range(count)]
    assert list(parallel_map(double, jobs, num_workers)) == [2 * i for i in range(count)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_is_that_of_the_job(num_workers):
    with pytest.raises(DatasetError) as caught:
        list(parallel_map(fail, [(i,) for i in range(9)], num_workers))
    assert str(caught.value) == "3.png is damaged"


def test_a_worker_that_is_killed_is_an_error_with_a_hint():
    with pytest.raises(DatasetError, match=r"one of 2 processes was killed.*--workers"):
        list(parallel_map(die, [(i,) for i in range(9)], 2))


def test_what_is_not_wanted_any_more_is_not_begun(tmp_path):
    start = time.monotonic()
    jobs = [(0.0, tmp_path / "a")] + [(0.3, tmp_path / f"{i}") for i in range(200)]
    with contextlib.closing(parallel_map(long, jobs, 2)) as results:
        next(results)
    assert time.monotonic() - start < 20
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("total", "line"),
    [
        (500, "evaluated: 24% 120/500 [01:00<03:10, 2.00 images/s]"),
        (120, "evaluated: 100% 120/120 [01:00<00:00, 2.00 images/s]"),
        (None, "evaluated: 120 images [01:00, 2.00 images/s]"),
    ],
)
def test_a_line_has_rate_and_time_left(total, line):
    progress = Progress("evaluated", total, shown=False)
    progress.add(120)
    assert progress.line(60.0) == line


def test_a_line_counts_bytes():
    lines = []
    progress = Progress("a.zip", 10_000_000_000, unit="B", say=lines.append)
    progress.done = 2_500_000_000
    assert progress.line(30.0) == "a.zip: 25% 2.50G/10.0G [00:30<01:30, 83.3MB/s]"
    progress.add(7_500_000_000)
    assert lines[0].startswith("a.zip: 100% 10.0G/10.0G")
    assert [size_text(n) for n in (0, 999, 1000, 999_600, 11_592_327_197)] == [
        "0 bytes",
        "999 bytes",
        "1 KB",
        "1 MB",
        "11.6 GB",
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_lines_come_by_time_and_at_the_end(monkeypatch, caplog, shown):
    clock = iter([0.0, *(4.0 * step for step in range(1, 7))])
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: next(clock))
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    with Progress("evaluated", 6, shown=shown) as progress:
        for _ in range(6):
            progress.add(1)
    done = [record.getMessage().split()[2] for record in caplog.records]
    assert done == (["3/6", "6/6"] if shown else [])


def test_cores_are_counted_where_the_system_does_not_say_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert count_cores() == 3


def test_signals_are_passed_on_once_and_ctrl_c_as_a_request_to_stop(monkeypatch):
    sent = []
    kill = os.kill
    monkeypatch.setattr(parallel, "active_children", lambda: [SimpleNamespace(pid=-7)])

    def noting(pid, number):
        if pid == -7:
            sent.append(number)
        else:
            kill(pid, number)

    monkeypatch.setattr(parallel.os, "kill", noting)
    before = signal.getsignal(signal.SIGTERM)
    with parallel.passing_signals_on() as received:
        for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
            kill(os.getpid(), number)
    assert received == [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]
    assert sent == [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_closed_terminal_stops_a_run_unless_nohup_ignores_it():
    before = signal.getsignal(signal.SIGHUP)
    taken = []
    try:
        for ignored in (False, True):
            signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
            with parallel.handling(parallel.STOPPING, lambda number, _: taken.append(number)):
                os.kill(os.getpid(), signal.SIGHUP)
            assert taken == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_bars_are_for_terminals_and_notebooks(monkeypatch):
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    assert shows_bars()
    monkeypatch.setenv("TERM", "dumb")
    assert not shows_bars()
    notebook = type("OutStream", (), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", notebook)
    assert shows_bars()
    monkeypatch.setattr(sys, "stderr", None)  # 2>&-
    assert not shows_bars()
