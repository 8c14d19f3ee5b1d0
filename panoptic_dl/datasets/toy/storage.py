"""Makes a generated folder exactly once, completely or not at all.

The folder is made under another name and renamed when complete, so its name never
stands for something half-made. A lock keeps two processes from doing the work twice; should the
file system know no locks, both do it and the first rename counts.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import file_lock, local_path, read_json
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map

RECORD = "toy.json"


def check_parameters(
    version: int, num_train: int, num_val: int, size: Sequence[int], smallest: int, seed: int
) -> dict[str, Any]:
    """What the content of a toy depends on; `size` is (H, W), both at least `smallest` pixels.

    Raises:
        ValueError: a number is out of range.
    """
    if min(size) < smallest:
        raise ValueError(f"size must be (H, W), both at least {smallest}, got {tuple(size)}")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be at least 1, got {num_train}, {num_val}")
    numbers = {"version": version, "num_train": num_train, "num_val": num_val, "seed": seed}
    return numbers | {"size": [int(side) for side in size]}


def store_once(
    root: str, kind: str, parameters: Mapping[str, object], make: Callable[[Path], None]
) -> Path:
    """The folder `<root>/<kind>_<hash of the parameters>`, made by `make` if it is not there.

    Args:
        root: folder for generated data; made if absent.
        kind: first part of the folder's name.
        parameters: everything the content depends on, of JSON's types.
        make: fills the empty folder it is given.
    Returns:
        Absolute path of the complete folder.
    Raises:
        DatasetError: `root` cannot be written, or files have vanished from the complete folder.
    """
    text = json.dumps(parameters, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    base = Path(os.path.abspath(local_path(root, "dataset.root.root")))
    target = base / f"{kind}_{digest}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if not target.is_dir():
            with file_lock(base / f".{target.name}.lock", wait=True) as lock:
                if lock is not None:
                    # Nobody else works on this one: what lies there an interrupted run has left.
                    for leftover in base.glob(f".{target.name}.part-*"):
                        shutil.rmtree(leftover, ignore_errors=True)
                if not target.is_dir():
                    _fill(target, parameters, make)
                    return target
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(base)):
            raise
        raise DatasetError(
            f"toy data cannot be written to {base}: {error.strerror or error}. Choose another "
            f"folder: PANOPTIC_DL_CACHE=/another/folder in the environment, "
            f"dataset.root.root=/another/folder on the command line, or root=... in Python"
        ) from error
    return _check_complete(target)


def _fill(target: Path, parameters: Mapping[str, object], make: Callable[[Path], None]) -> None:
    """Makes the content under a temporary name, then gives it its own."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    try:
        make(part)
        # mkdtemp makes it private; a data set is for everybody who may read the root.
        part.chmod(target.parent.stat().st_mode & 0o777)
        record = {"parameters": dict(parameters), "num_files": _count_files(part)}
        (part / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        try:
            part.rename(target)
        except OSError:
            # Another process was first (possible only without locks): the same content.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_complete(target: Path) -> Path:
    """Returns the folder if all of its files are there, e.g. not thinned by a cleaner of /tmp."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = read_json(target / RECORD)
        if _count_files(target) == record["num_files"] + 1:
            return target
    raise DatasetError(
        f"files are missing from (or were added to) the toy data in {target}: delete this folder, "
        f"it is made anew on the next use"
    )


def _count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def draw_samples(
    function: Callable[..., Any], jobs: list[tuple[Any, ...]], title: str, num_workers: int | None
) -> list[Any]:
    """Call `function(*job)` for every job, in `num_workers` processes; by default one per core."""
    count = min(num_workers or count_cores(), max(len(jobs) // 4, 1))
    results = parallel_map(function, jobs, count, hint="; run it again with num_workers=1")
    say = functools.partial(print, file=sys.stderr)
    drawn = []
    with Progress(title, len(jobs), unit="samples", say=say) as progress, closing(results):
        for result in results:
            drawn.append(result)
            progress.add(1)
    return drawn
