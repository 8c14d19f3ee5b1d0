"""Files that are there whole or not at all, and what an interrupted process leaves of them."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

_OURS = re.compile(r"\.unfinished\.\d+\..+")


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """Give a path to write to, and move the file to `target` once it is written."""
    # The name ends as before: image libraries choose the format by that.
    unfinished = target.with_name(f".unfinished.{os.getpid()}.{target.name}")
    try:
        yield unfinished
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def is_unfinished(name: str) -> bool:
    """Whether a file of this name was left by a process that was killed while it wrote."""
    return _OURS.fullmatch(name) is not None


def remove_unfinished(folder: Path) -> None:
    """Delete such files below `folder`; nobody else may be writing there."""
    for place, _, names in os.walk(folder):
        for name in names:
            if is_unfinished(name):
                Path(place, name).unlink(missing_ok=True)
