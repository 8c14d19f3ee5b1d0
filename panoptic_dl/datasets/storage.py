"""Makes a folder of generated or converted data exactly once, completely or not at all.

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
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import file_lock, local_path, read_json
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map


def store_once(
    root: str,
    kind: str,
    parameters: Mapping[str, object],
    make: Callable[[Path], None],
    record: str = "toy.json",
) -> Path:
    """The folder `<root>/<kind>_<hash of the parameters>`, made by `make` if it is not there.

    Args:
        root: folder for generated data; made if absent.
        kind: first part of the folder's name.
        parameters: everything the content depends on, of JSON's types.
        make: fills the empty folder it is given.
        record: name of the file, in the folder, that says what it is.

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
            with file_lock(base / f".{target.name}.lock") as lock:
                if lock is not None:
                    # Nobody else works on this one: what lies there an interrupted run has left.
                    for leftover in base.glob(f".{target.name}.part-*"):
                        shutil.rmtree(leftover, ignore_errors=True)
                if not target.is_dir():
                    _fill(target, parameters, make, record)
                    return target
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(base)):
            raise
        raise DatasetError(
            f"data cannot be written to {base}: {error.strerror or error}. Choose another folder: "
            "PANOPTIC_DL_CACHE=/another/folder in the environment"
        ) from error
    return _check_complete(target, record)


def _fill(
    target: Path, parameters: Mapping[str, object], make: Callable[[Path], None], record: str
) -> None:
    """Makes the content under a temporary name, then gives it its own."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    try:
        make(part)
        # mkdtemp makes it private; a data set is for everybody who may read the root.
        part.chmod(target.parent.stat().st_mode & 0o777)
        content = {"parameters": dict(parameters), "num_files": _count_files(part)}
        (part / record).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
        try:
            part.rename(target)
        except OSError:
            # Another process was first (possible only without locks): the same content.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_complete(target: Path, record: str) -> Path:
    """Returns the folder if all of its files are there, e.g. not thinned by a cleaner of /tmp."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if _count_files(target) == read_json(target / record)["num_files"] + 1:
            return target
    raise DatasetError(
        f"files are missing from (or were added to) the data in {target}: delete this folder, "
        f"it is made anew on the next use"
    )


def _count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def map_samples(
    function: Callable[..., Any], jobs: list[tuple[Any, ...]], title: str, num_workers: int | None
) -> list[Any]:
    """Call `function(*job)` for every job, in `num_workers` processes; by default one per core."""
    count = min(num_workers or count_cores(), max(len(jobs) // 4, 1))
    results = parallel_map(function, jobs, count, hint="; run it again with num_workers=1")
    say = functools.partial(print, file=sys.stderr)
    done = []
    with Progress(title, len(jobs), unit="samples", say=say) as progress, closing(results):
        for result in results:
            done.append(result)
            progress.add(1)
    return done
