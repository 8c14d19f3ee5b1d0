"""Work is shared out, stopped at once, and nobody is left behind."""

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from panoptic_dl.core import parallel
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map, shows_bars, size_text
from tests.core.long_job import long
from tests.terminal import on_terminal, shown


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


@pytest.fixture
def clock(monkeypatch):
    """The time that loops see; `clock.now` sets it."""
    time = SimpleNamespace(now=0.0)
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: time.now)
    return time


@pytest.mark.parametrize(
    ("total", "state"),
    [
        (500, "24% 120/500 [0:01:00<0:03:10, 2.00 images/s]"),
        (120, "100% 120/120 [0:01:00<0:00:00, 2.00 images/s]"),
        (None, "120 images [0:01:00, 2.00 images/s]"),
    ],
)
def test_a_line_has_rate_and_time_left(clock, total, state):
    progress = Progress("evaluated", total, shown=False)
    progress.add(120)
    clock.now = 60.0
    assert progress.state() == state


def test_what_was_done_before_counts_in_no_rate(clock):
    progress = Progress("training", 300, unit="iterations", shown=False, done=200)
    clock.now = 10.0
    assert progress.state() == "67% 200/300 [0:00:10<0:16:40, 0.00 iterations/s]"
    progress.add(20)
    assert progress.state() == "73% 220/300 [0:00:10<0:00:40, 2.00 iterations/s]"


def test_a_line_counts_bytes(clock):
    lines = []
    progress = Progress("a.zip", 10_000_000_000, unit="B", say=lines.append)
    clock.now = 30.0
    progress.add(2_500_000_000)
    assert lines == ["a.zip: 25% 2.5 GB/10 GB [0:00:30<0:01:30, 83.3 MB/s]"]
    progress.add(7_500_000_000)
    assert lines[1].startswith("a.zip: 100% 10 GB/10 GB")
    assert [size_text(n) for n in (0, 999, 1000, 999_600, 11_592_327_197)] == [
        "0 bytes",
        "999 bytes",
        "1 KB",
        "1 MB",
        "11.6 GB",
    ]


@pytest.mark.parametrize("shown", [True, False])
def test_lines_come_by_time_and_at_the_end(clock, caplog, shown):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    with Progress("evaluated", 6, shown=shown) as progress:
        for _ in range(6):
            clock.now += 4.0
            progress.add(1)
    done = [record.getMessage().split()[2] for record in caplog.records]
    assert done == (["3/6", "6/6"] if shown else [])


LOOPS = """
import logging, sys
from functools import partial
from panoptic_dl.core import parallel
from panoptic_dl.core.parallel import OUTPUT, Progress

parallel.SECONDS_OF_A_BAR = 0
say = partial(print, file=sys.stderr)
handler = logging.StreamHandler(OUTPUT)
logging.getLogger("panoptic_dl").addHandler(handler)
logging.getLogger("panoptic_dl").setLevel(logging.INFO)
with Progress("training", 3, unit="iterations") as outer:
    outer.note = "loss 2.5 " * 12
    outer.add(1)
    with Progress("evaluated", 2) as inner:
        inner.add(1)
        logging.getLogger("panoptic_dl").info("a log line, longer than the terminal: " + "x" * 80)
        print("a printed line")
        inner.add(1)
    outer.add(1)
    if sys.argv[1:]:
        raise KeyboardInterrupt
    outer.add(1)
with Progress("written", 2, say=say) as last:
    last.add(1)
    last.add(1)
print("after")
"""


def test_bars_leave_a_terminal_with_its_lines_and_nothing_else():
    written, code = on_terminal(LOOPS)
    log, printed, evaluated, trained, saved, after = shown(written)
    assert (code, printed, after) == (0, "a printed line", "after")
    assert log == "a log line, longer than the terminal: " + "x" * 80
    assert re.fullmatch(r"evaluated: 100% 2/2 \[.* images/s\]", evaluated)
    assert re.fullmatch(r"training: 100% 3/3 \[.* iterations/s\]", trained)
    assert re.fullmatch(r"written: 100% 2/2 \[.* images/s\]", saved)
    assert re.search(r"training .*━+.* 33% 1/3 \[0:00:0\d<0:00:\d\d, .* iterations/s\]", written)
    both = re.search(r"training [^\n]*\n((?:[^\n]*loss [^\n]*\n)+)evaluated [^\n]* 1/2 ", written)
    assert both[1].count("loss 2.5") % 12 == 0, "the bars stand below each other, with whole notes"
    assert written.index("\x1b[?25h") < written.index("━"), "the cursor stays"


def test_ctrl_c_takes_the_bars_away_before_the_error_is_printed():
    written, code = on_terminal(LOOPS, "stop")
    lines = shown(written)
    assert code
    assert not [line for line in lines if line.startswith(("training ", "loss"))]
    assert lines[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize(
    "environment",
    [
        {"TERM": "dumb"},
        {"TERM": "unknown"},
        {"JPY_PARENT_PID": "1"},
        {"stdout": subprocess.DEVNULL},
    ],
)
def test_elsewhere_there_is_no_bar(environment):
    written, code = on_terminal(LOOPS, **environment)
    assert (code, "\x1b" in written, "━" in written) == (0, False, False)


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


def test_closed_output_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(sys, "stdout", None)  # >&-
    assert not shows_bars()
