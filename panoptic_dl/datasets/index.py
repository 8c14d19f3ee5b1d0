"""Records of large datasets, read once a machine: lines of JSON, mapped into memory from the cache.

Reading and checking the annotations of COCO's 118,287 training images takes half a minute and more
than a gigabyte. What became of them lies in `$PANOPTIC_DL_CACHE/index` until a file or folder that
they were made of changes. Processes share its pages, and parse a record when they need it.
"""

import hashlib
import json
import logging
import mmap
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.core.archives import file_state
from panoptic_dl.core.files import atomic_write, cache_folder, file_lock

logger = logging.getLogger(__name__)

VERSION = 1  # of what is kept
SMALLEST = 8 << 20  # bytes of JSON files; fewer are read as quickly as an index


class Records(Sequence[dict[str, Any]]):
    """The records of an index file, each parsed when it is asked for; the last line is `facts`.

    Raises OSError or ValueError where the file is missing or torn.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        with file.open("rb") as opened:
            self._content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        ends = [line.end() for line in re.finditer(rb"\n", self._content)]
        self._bounds = np.array([0, *ends], np.int64)
        self._numbers = range(max(0, len(ends) - 1))
        self.facts = json.loads(self._content[self._bounds[len(self._numbers)] :])

    def __reduce__(self) -> tuple[type["Records"], tuple[Path]]:
        return Records, (self._file,)  # for processes that are spawned

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in self._numbers[index]]
        number = self._numbers[index]
        return json.loads(self._content[self._bounds[number] : self._bounds[number + 1]])


def indexed(
    name: str,
    sources: Sequence[Path],
    load: Callable[[], list[dict[str, Any]]],
    found: dict[str, Any],
) -> Sequence[dict[str, Any]]:
    """What `load` returns, from an index if there is one of the same files; else one is made.

    Without a place for the index `load` is called each time.

    Args:
        name: of what is loaded.
        sources: files and folders that it depends on, besides those that records name and the one
            that `load` is written in. If JSON files among them are small, there is no index.
        found: what else `load` finds out, which it writes there.
    """
    code = getattr(load, "__code__", indexed.__code__)
    states = [*map(file_state, (*sources, Path(code.co_filename)))]
    if sum(size for path, _, size in states if path.endswith(".json")) < SMALLEST:
        return load()
    key = hashlib.sha256(
        repr((VERSION, name, [path for path, *_ in states])).encode("utf-8", "replace")
    )
    file = cache_folder() / "index" / f"{key.hexdigest()[:32]}.jsonl"
    with ExitStack() as stack:
        try:
            if _read(file, states) is None:
                file.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(file.with_suffix(".lock")))
        except OSError as error:
            logger.debug("no index can be made: %s", error)
        records = _read(file, states)  # which another process may just have made
        if records is None:
            return _write(file, load(), states=states, found=found)
    found.update(records.facts["found"])
    return records


def _read(file: Path, states: Sequence[Any]) -> Records | None:
    """An index, if it is of these states."""
    try:
        records = Records(file)
        kept = [*records.facts["states"], *records.facts["folders"]]
        now = [*map(list, states), *(list(file_state(Path(f[0]))) for f in kept[len(states) :])]
        return records if kept == now else None
    except (OSError, ValueError, KeyError):
        return None


def _write(file: Path, loaded: list[dict[str, Any]], **facts: Any) -> Sequence[dict[str, Any]]:
    """Keep records in an index; they are returned as they are where that is impossible."""
    files = (path for r in loaded for key, path in r.items() if key.endswith("file_name"))
    folders = [file_state(Path(folder)) for folder in sorted({os.path.dirname(f) for f in files})]
    try:
        with atomic_write(file) as temporary, temporary.open("w", encoding="ascii") as lines:
            for entry in (*loaded, {**facts, "folders": folders}):
                lines.write(json.dumps(entry, separators=(",", ":")) + "\n")
        records = Records(file)
        return records if records[:1] == loaded[:1] else loaded
    except (OSError, TypeError, ValueError) as error:  # such as values that JSON has not
        logger.debug("%s cannot be written: %s", file, error)
        return loaded
