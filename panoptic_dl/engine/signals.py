"""Signals that ask a run to stop, while it has nothing to save."""

import contextlib
import signal
import threading
from collections.abc import Iterator

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
