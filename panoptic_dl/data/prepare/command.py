"""The command line of scripts/prepare_*.py: arguments, one line for each error, exit codes."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from panoptic_dl.data.errors import DatasetError

MOST_WORKERS = 16
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signalled(KeyboardInterrupt):
    """A signal came; `args[0]` is its number."""


def run_command(
    description: str, prepare: Callable[..., None], check: Callable[..., None], folder: str
) -> None:
    """Do what the command line says.

    Exit codes: 0 ready, 1 one message said what is missing or wrong, 128 + a signal that stopped
    it: 130 for Ctrl-C.

    Args:
        description: for --help.
        prepare: is called with the folder and `num_workers`.
        check: is called with the folder.
        folder: name of the dataset's own folder.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root", metavar="ROOT", help=f"folder that holds {folder}/ or the archives, or {folder}/"
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        default=min(usable_cores(), MOST_WORKERS),
        metavar="N",
        help="processes that share the work (default: usable cores, %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="change nothing: count what is there")
    arguments = parser.parse_args()
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _raise)
    try:
        if arguments.check:
            check(arguments.root)
        else:
            prepare(arguments.root, num_workers=arguments.workers)
    except DatasetError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = ". Free some room and run the same command again" if full else ""
        sys.exit(f"error: {error}{cure}")
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))


def usable_cores() -> int:
    """What a cluster grants, not what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _raise(number: int, frame: FrameType | None) -> None:
    raise Signalled(number)
