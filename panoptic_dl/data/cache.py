"""Decoded images and labels, kept on a fast disk from the second epoch on."""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.archives import file_state
from panoptic_dl.core.errors import DatasetError, disk_error
from panoptic_dl.core.files import atomic_write, file_lock, flush, local_path
from panoptic_dl.core.settings import require_value

logger = logging.getLogger(__name__)

HEADER = 128  # bytes that NumPy writes before the pixels


def decoded_cache(folder: str | None, max_gb: float) -> "DecodedCache | None":
    """A cache in `folder`, or none at all: for configs."""
    return None if folder is None else DecodedCache(folder, max_gb)


class DecodedCache:
    """A folder of NumPy files, up to a number of bytes; what no longer fits is decoded each time.

    An entry belongs to one state of its file, its size and time of change, and is discarded when
    these differ. Processes may share a folder: entries are written atomically, and `bytes_used`
    counts them under a lock.

    Args:
        folder: is made when missing; lies best on a local disk.
        max_gb: gigabytes (10^9 bytes) that all its files together may take.

    Raises:
        DatasetError: the folder has no name, or cannot be made or written to.
        ValueError: `max_gb` is not positive.
    """

    def __init__(self, folder: str, max_gb: float) -> None:
        if not folder.strip():  # it would be the current one
            raise DatasetError("dataset.cache.folder is empty: name a folder, or null for no cache")
        self.folder = local_path(folder, "dataset.cache.folder").absolute()
        self.max_bytes = int(max_gb * 1e9)
        self._accepts_files = True
        require_value("dataset.cache.max_gb", max_gb, float, above=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._reserve(0)
        except OSError as error:
            raise DatasetError(f"dataset.cache.folder={folder}: {error.strerror}") from error

    def get(
        self, file: str, image_format: str, decode: Callable[[], NDArray[np.integer]]
    ) -> NDArray[np.integer]:
        """The pixels of `file` in a format; what `decode` returns is kept for the next time.

        The array may be a read-only memory map, of which only what is used is read.
        """
        _, changed, size = file_state(file)  # zeros of a missing one, which `decode` names
        key = hashlib.sha256(f"{os.path.abspath(file)}\0{image_format}".encode()).hexdigest()[:32]
        entry = self.folder / key[:2] / f"{key}-{size}-{changed}.npy"
        try:
            return np.load(entry, mmap_mode="r")
        except FileNotFoundError:
            pass
        except Exception:  # damaged, in one of the many ways of headers: it is made anew
            self._remove(entry)
        pixels = decode()
        if self._accepts_files and not entry.exists():
            # Ids of Cityscapes fit into two bytes.
            narrowest = np.min_scalar_type(int(pixels.max(initial=0)))
            self._add(entry, key, pixels.astype(narrowest, copy=False))
        return pixels

    def _add(self, entry: Path, key: str, pixels: NDArray[np.integer]) -> None:
        size, reserved = pixels.nbytes + HEADER, 0
        try:
            entry.parent.mkdir(exist_ok=True)
            for old in entry.parent.glob(f"{key}-*"):  # of another state of the file
                self._remove(old)
            if not self._reserve(size):
                self._close(f"is full ({self.max_bytes / 1e9:.1f} GB, dataset.cache.max_gb)")
                return
            reserved = size
            with atomic_write(entry, sync=False) as temporary:
                np.save(temporary, pixels)
                flush(temporary)
                if entry.exists():  # another process was faster, and counted its bytes
                    self._reserve(-size)
        except OSError as error:
            with suppress(OSError):
                self._reserve(-reserved)
            self._close(f"takes no more: {disk_error(error, entry)}")

    def _remove(self, entry: Path) -> None:
        with suppress(OSError):
            size = entry.stat().st_size
            entry.unlink()
            self._reserve(-size)

    def _close(self, reason: str) -> None:
        self._accepts_files = False
        logger.warning(
            "the cache %s %s; further images are decoded each time", self.folder.name, reason
        )

    def _reserve(self, size: int) -> bool:
        """Add a number of bytes, which may be negative, to those in use; False: no room is left."""
        file = self.folder / "bytes_used"
        with file_lock(file):
            text = file.read_text().strip()
            used = int(text) if text.isdigit() else self._measure()
            if used + size > self.max_bytes and size > 0:
                used = self._measure()  # processes that were killed have not given back theirs
            has_room = size <= 0 or used + size <= self.max_bytes
            file.write_text(str(max(0, used + size if has_room else used)))
        return has_room

    def _measure(self) -> int:
        entries = self.folder.glob("*/*.npy")
        return sum(file.stat().st_size for file in entries if not file.name.startswith("."))
