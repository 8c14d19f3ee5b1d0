"""Long loops: jobs shared between processes, progress, and the number of CPU cores."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from functools import cache, partial
from multiprocessing import active_children, get_context
from types import FrameType, SimpleNamespace
from typing import Any

from panoptic_dl.core.errors import STOPPING, DatasetError

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_A_BAR = 0.1  # until it is drawn anew
BAR = 24  # columns
SECONDS_TO_END = 2  # before SIGTERM kills a worker
ORPHANS_LIVE = 30.0  # seconds in which processes may save and end after their parent was killed
SECONDS_BETWEEN_LOOKS = 1.0  # of a worker at whether its parent lives

# Standard output as it is when a line is written, for handlers of logs: bars stand below its lines.
OUTPUT: Any = SimpleNamespace(
    write=lambda text: sys.stdout.write(text), flush=lambda: sys.stdout.flush()
)
unheeded: list[int] = []  # signals that came when a run had nothing left to do but to end

Say = Callable[[str], object]  # takes a line for people, such as `print`


def count_cores() -> int:
    """CPU cores that this process may use: on a cluster, those that its job was given."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shows_bars() -> bool:
    """Whether bars can be drawn again in their place: where output and errors are one terminal.

    A notebook, which keeps all that was ever drawn, gets lines, as files and pipes do.
    """
    is_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))
    return is_terminal and "JPY_PARENT_PID" not in os.environ and _terminal().is_interactive


@cache
def _terminal() -> Any:
    """Where all bars are drawn, the newest below the others; output appears above them."""
    from rich.console import Console  # only where there is a bar

    return Console(stderr=True, soft_wrap=True, force_jupyter=False)


class Progress(contextlib.AbstractContextManager["Progress"]):
    """How far a long loop is: a bar on a terminal, elsewhere a line every ten seconds.

    When all is done, there is a last line everywhere.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        *,
        unit: str = "images",
        say: Say | None = None,
        shown: bool = True,
        done: int = 0,
    ) -> None:
        """Count to `total` `unit`s, None if unknown ("B": bytes); `title` is such as "evaluated".

        `say` gets the lines; None: the log. `shown` is false in all processes of a run but one.
        `done` are from before.
        """
        self.title, self.total, self.unit, self.shown = title, total, unit, shown
        self.done = self._before = done
        self.note = ""  # lines below the bar
        self._say = say or partial(logger.info, "%s")
        self._start = self._last = time.perf_counter()
        self._bar: Any = None

    def add(self, number: int) -> None:
        """Count `number` more as done."""
        self.done += number
        if not self.shown:
            return
        now, is_end, has_bar = time.perf_counter(), self.done == self.total, shows_bars()
        if is_end or now - self._last >= (SECONDS_OF_A_BAR if has_bar else SECONDS_BETWEEN_LINES):
            self._last = now
            if has_bar:
                self._draw()
            if is_end:
                self.close()
            if is_end or not has_bar:
                self._say(f"{self.title}: {self.state()}")

    def _draw(self) -> None:
        from rich.live import Live
        from rich.text import Text

        if self._bar is None:
            # A refresh of its own takes a thread, and a loop may fork its workers after this.
            self._bar = Live(console=_terminal(), auto_refresh=False, transient=True)
            self._bar.start()
            self._bar.console.show_cursor()  # a process that is killed cannot bring it back
        full = round(BAR * self.done / self.total) if self.total else 0
        bar = (("━" * full, "green"), ("─" * (BAR - full), "dim")) if self.total else ()
        parts = (f"{self.title} ", *bar, f" {self.state()}", f"\n{self.note}" * bool(self.note))
        self._bar.update(Text.assemble(*parts, overflow="fold", no_wrap=False), refresh=True)

    def state(self) -> str:
        """How much is done, the time it took, the time left, and the rate."""
        seconds, is_size = max(time.perf_counter() - self._start, 1e-9), self.unit == "B"
        rate, took = (self.done - self._before) / seconds, timedelta(seconds=round(seconds))
        speed = f"{size_text(rate)}/s" if is_size else f"{rate:.2f} {self.unit}/s"
        done, total = (size_text(n) if is_size else n for n in (self.done, self.total or 0))
        if not self.total:
            return f"{done} {self.unit} [{took}, {speed}]"
        return f"{self.done / self.total:.0%} {done}/{total} [{took}<{self.left()}, {speed}]"

    def left(self) -> timedelta:
        """The time left at the rate so far."""
        pace = (time.perf_counter() - self._start) / max(self.done - self._before, 1)
        return timedelta(seconds=round(pace * ((self.total or self.done) - self.done)))

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __exit__(self, *error: object) -> None:
        self.close()


def size_text(number: float) -> str:
    """Bytes in powers of 1000, such as "11.6 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 999.5 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"


def parallel_map(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    num_workers: int,
    hint: str = ": take fewer (--workers); the same command goes on from here",
    chunk: int = 1,
) -> Generator[Any, None, None]:
    """Call `function(*job)` for each of the jobs and yield the results, in the order of the jobs.

    Workers ignore Ctrl-C, which a terminal sends to all processes of a command. When the loop over
    the results ends early (an error, Ctrl-C), jobs under way are finished and waited for;
    `contextlib.closing` makes that certain. When this process is killed, its workers end by
    themselves.

    Args:
        function: can be pickled; a call takes seconds at most.
        num_workers: processes; 1 works in this one. Forked on Linux.
        hint: what to do when a worker was killed, for the message of the DatasetError.
        chunk: jobs that a worker is given at a time.
    """
    num_workers = min(num_workers, len(jobs))
    if num_workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
    ) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True), chunksize=chunk)
        except BrokenProcessPool as error:
            raise DatasetError(
                f"one of {num_workers} processes was killed, mostly because memory ran out{hint}"
            ) from error
        except BaseException:
            # A second Ctrl-C must not leave workers behind, which end in a moment.
            with handling([signal.SIGINT], signal.SIG_IGN):
                pool.shutdown(cancel_futures=True)
            raise


def _begin_worker(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # From the pool when another worker died; or sent to all, and the job under way is finished.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_END))
    end_with(parent)


def end_with(parent: int, seconds: float = 0.0) -> None:
    """End this process when its parent has, after SIGTERM and so many seconds to save, if any."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if seconds:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def handling(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], Any] | signal.Handlers
) -> Iterator[None]:
    """Have signals handled by `handler` inside; in other threads than the main one do nothing.

    SIGHUP stays ignored where it is, by `nohup`.
    """
    # Python allows no handlers in other threads.
    is_main = threading.current_thread() is threading.main_thread()
    kept = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    heeded = set(numbers) - kept if is_main else set()
    previous = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def interrupt(*_: object) -> None:
    """Handle a signal as Ctrl-C."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def passing_signals_on() -> Iterator[list[int]]:
    """Send child processes the signals that stop a run; yield those that came, in order."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        if number in received:
            return
        received.append(number)
        # Ctrl-C in a terminal has reached the children, `kill -INT` has not: SIGTERM asks for the
        # same and, unlike a second Ctrl-C, does no more when it comes twice.
        for child in active_children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid or 0, signal.SIGTERM if number == signal.SIGINT else number)

    with handling(STOPPING, forward):
        yield received
    unheeded.extend(received)
