"""The folder of a dataset, its archives, and what is said when they are not there."""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from panoptic_dl.data.archives.find import unfinished_downloads
from panoptic_dl.data.archives.kinds import Kind, download_table
from panoptic_dl.data.errors import DatasetError


def dataset_folder(root: str | Path, name: str) -> Path:
    """The dataset's own folder: `root` if it is called `name`, else `root/name`.

    Raises:
        DatasetError: there is no folder `root`.
    """
    path = Path(os.path.abspath(Path(root).expanduser()))
    base = path if path.name == name and not (path / name).is_dir() else path / name
    if not path.is_dir():
        raise DatasetError(
            f"no such folder: {path}. Give the folder that holds {name}/, or the archives"
        )
    return base


def archive_places(base: Path) -> list[Path]:
    """Where archives are looked for."""
    return [base, base.parent]


@contextlib.contextmanager
def alone_in(base: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes that do the same out of it.

    Raises:
        DatasetError: another one is at work, or the folder cannot be made.
    """
    try:
        base.mkdir(exist_ok=True)
    except OSError as error:
        raise DatasetError(f"cannot make the folder {base}: {error.strerror}") from error
    descriptor = os.open(base, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DatasetError(
            f"another process prepares {base} just now: wait for it, or end it"
        ) from error
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def missing_folder(title: str, folder: Path, kinds: Sequence[Kind], how: str) -> DatasetError:
    """Say what to download for a folder that is not there, and that there is a part of it."""
    places = archive_places(folder.parent)
    text = (
        f"{title}: folder missing: {folder}\n"
        f"Download these archives into {places[0]} or {places[1]}:\n\n{download_table(kinds)}\n\n"
        f"{how}\nThen run the same command again: it unpacks them."
    )
    for part in unfinished_downloads(places, kinds):
        text += f"\n(A download that is not finished: {part})"
    return DatasetError(text)


def compare(
    title: str, expected: set[str], found: set[str], where: Path, suffix: str, remedy: str
) -> Iterator[str]:
    """Yield what is wrong if something of `expected` was not `found`."""
    missing = sorted(expected - found)
    if missing:
        yield (
            f"{title}: {len(missing)} of {len(expected)} missing or torn in {where}, "
            f"first {missing[0]}{suffix}: {remedy}"
        )


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one `DatasetError` for all of them, if any."""
    if lines := list(problems):
        raise DatasetError("\n".join(lines))


def ready(base: Path, dataset: str) -> str:
    """What to say to a config so that it finds the dataset."""
    return f"ready: dataset={dataset} dataset.root={base.parent}"


def describe(count: int, official: int) -> str:
    """What it means that a split has so many images."""
    if count == official:
        return f"complete, {count} images"
    if count == 0:
        return "not there, left out"
    return f"{count} of the official {official} images: good for trials, not for published figures"
