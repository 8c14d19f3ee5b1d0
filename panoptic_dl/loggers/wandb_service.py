"""The process that wandb starts beside ours, when it has to be given up."""

import contextlib
import os
import signal
from pathlib import Path

from .patience import Patience

NAME = "wandb-core"
SECONDS = 5.0  # to notice that it is gone


def end_service() -> None:
    """Kill it: what it wrote so far stays, and whoever waits for it waits no longer.

    Only children of this process, on Linux; elsewhere it is left alone. wandb is left ready to
    start another one, for the next run of a sweep.
    """
    for number in _children():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{number}/comm").read_text().strip() == NAME:
                os.kill(number, signal.SIGKILL)
    with contextlib.suppress(Exception):  # it finds its process gone
        import wandb

        Patience("wandb-end")(wandb.teardown, SECONDS, "ending")


def _children() -> list[int]:
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text().split())
    return found
