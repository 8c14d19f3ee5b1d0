"""Headers of a split's files: what they tell is known in the first minute of a run.

What `read_size` refuses, and sizes that differ, would else end a run when the file is needed: of
validation images that is after the training. What only pixels can tell is mode=doctor's.
"""

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from detectron2.utils import comm

from panoptic_dl.core.archives import file_state
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import cache_folder
from panoptic_dl.core.images import (
    Kind,
    read_size,
    require_listed_size,
    require_same_size,
    segment_problem,
)
from panoptic_dl.core.parallel import Progress

logger = logging.getLogger(__name__)

THREADS = 16  # most of which wait for the disk
SIZED_FILES = 200  # of a fingerprint
CHUNK = 64  # images that a thread is given at a time

Labels = Sequence[tuple[str, Kind | None]]
"""Label files of an image, and whose reader will read them (see `read_size`)."""
LABELS: tuple[tuple[str, Kind], ...] = (
    ("pan_seg_file_name", "panoptic"),
    ("sem_seg_file_name", "label"),
)


def training_labels(record: Mapping[str, Any]) -> Labels:
    """The label files that training reads of an image."""
    return [(record[key], kind) for key, kind in LABELS if key in record]


def require_own_ids(source: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Raise `DatasetError` where two records, which are listed in `source`, are of one image."""
    numbers = Counter(record.get("image_id", record["file_name"]) for record in records)
    for image, count in numbers.items():
        if count > 1:
            raise DatasetError(
                f"{source} has image {image!r} {count} times: give each image its own id, and one "
                "annotation"
            )


def fingerprint(
    records: Sequence[Mapping[str, Any]], also: Callable[[Any], object] | None = None
) -> str:
    """A hash of a split's images, in their order: names, sizes, segments; not where they lie.

    Of up to some hundred images, spread over the split, the number of bytes of their files and of
    those of their labels counts, too. `also` is called with each record: parsing takes time.
    """
    digest, apart = hashlib.sha256(), max(1, len(records) // SIZED_FILES)
    for i, record in enumerate(records):
        if also is not None:
            also(record)
        file = str(record.get("file_name"))
        told = [os.path.basename(file), record.get("height"), record.get("width")]
        for segment in record.get("segments_info", ()):
            told += map(segment.get, ("id", "category_id", "iscrowd", "area"))
        for key in ("file_name", *(key for key, _ in LABELS)) if i % apart == 0 else ():
            if key in record and (size := file_state(record[key])[2]):  # a missing one has none
                told.append(size)
        digest.update(repr(told).encode(errors="replace"))
    return digest.hexdigest()[:16]


def check_records(
    title: str,
    records: Sequence[Mapping[str, Any]],
    labels_of: Callable[[Any], Labels] = training_labels,
    *,
    seconds: float | None = None,
    most_bad: int = 0,
) -> None:
    """Look at the segments and headers of images and labels, in threads of the main process.

    Images that are found right are remembered, by size and time of change of their files, in the
    file `headers` of the folder $PANOPTIC_DL_CACHE; of these only the state is looked at again.

    Args:
        title: of the split, for the log.
        records: with "file_name" and perhaps "height" and "width".
        labels_of: the label files of a record.
        seconds: after which the rest is left out, which is said; None: all are looked at.
        most_bad: so many images with a fault are warnings.

    Raises:
        DatasetError: the first fault that is more than those, or of a segment.
    """
    if not comm.is_main_process():
        return  # an error of that process ends all
    for record in records:
        seen = set[int]()
        for segment in record.get("segments_info", ()):
            if problem := segment_problem(segment, seen):
                name = f"{record['pan_seg_file_name']}: segment {segment.get('id')!r}"
                raise DatasetError(f"{name}{problem}")
            seen.add(segment["id"])
    known, end = _Known(), None if seconds is None else time.monotonic() + seconds
    check = partial(_check, known, records, labels_of)
    pool, bad, done = ThreadPoolExecutor(THREADS, "headers"), 0, 0
    try:
        with Progress(f"{title}: headers checked", len(records)) as progress:
            for faults in pool.map(check, range(0, len(records), CHUNK)):
                for fault in faults:
                    bad += 1
                    if bad > most_bad:
                        raise fault
                    logger.warning("%s (dataset.max_bad_samples=%d)", fault, most_bad)
                progress.add(min(CHUNK, len(records) - done))
                done = min(done + CHUNK, len(records))
                if end is not None and time.monotonic() > end and done < len(records):
                    logger.info(
                        f"{title}: after {seconds:g} s the headers of {done} of {len(records)} "
                        "images are checked; a later run goes on from here, mode=doctor checks all"
                    )
                    break
    finally:
        pool.shutdown(cancel_futures=True)
        known.save()


def _check(
    known: "_Known",
    records: Sequence[Mapping[str, Any]],
    labels_of: Callable[[Any], Labels],
    start: int,
) -> list[DatasetError]:
    """The first fault of each image of a chunk that has one."""
    faults = []
    for record in records[start : start + CHUNK]:
        file, labels = str(record["file_name"]), labels_of(record)
        sizes = record.get("height"), record.get("width")
        key = known.key(sizes, [(file, "image"), *labels])
        if key in known.keys:
            continue
        try:
            size = read_size(file, "image")
            require_listed_size(dict(record), size)  # which adds sizes that are not listed
            for label, kind in labels:
                require_same_size(read_size(label, kind), label, size, file)
        except DatasetError as error:
            faults.append(error)
        else:
            known.new.add(key)
    return faults


class _Known:
    """Keys of images that were found right, in this run and before; for many threads."""

    def __init__(self) -> None:
        self._file = cache_folder() / "headers"
        self.keys, self.new = self._read(), set[int]()

    def _read(self) -> set[int]:
        try:
            content = self._file.read_bytes()
        except OSError:
            return set()
        return set(np.frombuffer(content[: len(content) // 8 * 8], np.uint64).tolist())

    def key(self, listed: Any, files: Labels) -> int:
        """A hash of the files' names and states."""
        states = [(kind, *file_state(os.path.abspath(f))) for f, kind in files]
        text = repr((listed, states)).encode(errors="surrogateescape")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def save(self) -> None:
        """Add the new keys to the file; a disk that takes none only costs time."""
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                file.truncate(file.tell() // 8 * 8)  # of a write that was torn
                file.write(np.fromiter(self.new, np.uint64).tobytes())
