"""What scripts/prepare_*.py share: command line, exit codes, the dataset's folder, messages."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from panoptic_dl.core.errors import DatasetError, one_line_errors
from panoptic_dl.core.files import acquire_lock, local_path, near_names, release_lock
from panoptic_dl.core.parallel import count_cores, size_text
from panoptic_dl.datasets.prepare.archives import OfficialArchive

MAX_WORKERS = 16
UNFINISHED_DOWNLOADS = (".part", ".crdownload", ".download", ".partial", ".aria2", ".tmp")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@one_line_errors()
def run_command(
    description: str, prepare: Callable[..., None], check: Callable[..., None], folder: str
) -> None:
    """Parse the command line, and prepare or check a dataset.

    Exit codes: 0 ready, 1 something is missing or wrong (one message), 128 + a signal that stopped
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
        type=int,
        default=min(count_cores(), MAX_WORKERS),
        metavar="N",
        help="processes that share the work (default: usable cores, %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="change nothing: count what is there")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        if arguments.check:
            check(arguments.root)
        else:
            prepare(arguments.root, num_workers=arguments.workers)
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def dataset_folder(root: str | Path, name: str) -> Path:
    """The dataset's own folder: `root` if it is called `name`, else `root/name`.

    Raises:
        DatasetError: there is no folder `root`.
    """
    path = Path(os.path.abspath(local_path(root, "ROOT")))
    base = path if path.name == name and not (path / name).is_dir() else path / name
    if not path.is_dir():
        near = near_names(path.parent, path.name)
        raise DatasetError(
            f"no such folder: {path}{near}. Give the folder that holds {name}/, or the archives"
        )
    return base


@contextlib.contextmanager
def lock_folder(base: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes that do the same out of it.

    Raises:
        DatasetError: another one is at work, or the folder cannot be made.
    """
    try:
        base.mkdir(exist_ok=True)
        lock = acquire_lock(base)
    except BlockingIOError as error:
        raise DatasetError(
            f"another process prepares {base} just now: wait for it, or end it"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot make the folder {base}: {error.strerror}") from error
    try:
        yield
    finally:
        release_lock(lock)


def missing_folder(
    title: str, folder: Path, officials: Sequence[OfficialArchive], how: str
) -> DatasetError:
    """The error for a missing folder: what to download, and which downloads are unfinished."""
    places = folder.parent, folder.parent.parent
    width = max(len(archive.name) for archive in officials)
    table = "\n".join(
        f"  {archive.name:<{width}}  {archive.size:>14,} bytes ({size_text(archive.size)})"
        for archive in officials
    )
    text = (
        f"{title}: folder missing: {folder}\n"
        f"Download these archives into {places[0]} or {places[1]}:\n\n{table}\n\n"
        f"{how}\nThen run the same command again: it unpacks them."
    )
    stems = tuple(archive.name.removesuffix(".zip") for archive in officials)
    for place in places:
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.name.startswith(stems) and file.name.endswith(UNFINISHED_DOWNLOADS):
                text += f"\n(A download that is not finished: {file})"
    return DatasetError(text)


def describe(count: int, official: int) -> str:
    """What it means that a split has so many images."""
    if count == official:
        return f"complete, {count} images"
    if count == 0:
        return "not there, left out"
    return f"{count} of the official {official} images: good for trials, not for published metrics"
