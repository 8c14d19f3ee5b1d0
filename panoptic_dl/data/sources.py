"""Images and labels of which only some rows are needed.

Shapes: H W pixels.

Decoded images and labels, kept on a fast disk from the second epoch on.

A file of the cache belongs to one state of its source, its size and time of change; when these
differ it is thrown away. It is there completely or not at all, and processes may share a folder.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import atomic_write, file_lock, flush
from panoptic_dl.core.images import colors_to_ids, read_image
from panoptic_dl.core.png import first_rows, plain_png

logger = logging.getLogger(__name__)

HEADER = 128  # bytes that NumPy writes before the pixels


class DecodedCache:
    """A folder of NumPy files, up to a number of bytes; what no longer fits is decoded each time.

    Args:
        folder: is made when missing; lies best on a local disk.
        max_gb: gigabytes (10^9 bytes) that all its files together may take.

    Raises:
        DatasetError: the folder has no name, or cannot be made or written to, or `max_gb` is not
            positive.
    """

    def __init__(self, folder: str, max_gb: float) -> None:
        if not folder.strip():  # it would be the current one
            raise DatasetError("dataset.cache.folder is empty: name a folder, or null for no cache")
        self.folder = Path(folder).expanduser().absolute()
        self.max_bytes = int(max_gb * 1e9)
        self._is_open = True  # to more files
        if self.max_bytes <= 0:
            raise DatasetError(f"dataset.cache.max_gb={max_gb} must be above 0")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._used():
                pass
        except OSError as error:
            raise DatasetError(f"dataset.cache.folder={folder}: {error.strerror}") from error

    def get(
        self, file: str, kind: str, decode: Callable[[], NDArray[np.integer]]
    ) -> NDArray[np.integer]:
        """The pixels of `file` read as `kind`; what `decode` returns is kept for the next time.

        The array may be a read-only map of a file, of which only what is used is read.
        """
        try:
            status = os.stat(file)
        except OSError:
            return decode()  # whose error names the file
        key = hashlib.sha256(f"{os.path.abspath(file)}\0{kind}".encode()).hexdigest()[:32]
        name = f"{key}-{status.st_size}-{status.st_mtime_ns}.npy"
        kept = self.folder / key[:2] / name
        try:
            pixels: NDArray[np.integer] = np.load(kept, mmap_mode="r")
            return pixels
        except FileNotFoundError:
            pass
        except Exception:  # damaged, in one of the many ways of headers: it is made anew
            self._remove(kept)
        pixels = decode()
        if self._is_open and not kept.exists():
            self._keep(kept, key, _narrowest(pixels))
        return pixels

    def _keep(self, kept: Path, key: str, pixels: NDArray[np.integer]) -> None:
        reserved = 0
        try:
            kept.parent.mkdir(exist_ok=True)
            for old in kept.parent.glob(f"{key}-*"):  # of another state of the source
                self._remove(old)
            size = pixels.nbytes + HEADER
            with self._used() as used:
                if used[0] + size > self.max_bytes:
                    used[0] = self._measured()  # writers that were killed have not given back
                if used[0] + size > self.max_bytes:
                    self._close(f"is full ({used[0] / 1e9:.1f} GB, dataset.cache.max_gb)")
                    return
                used[0] += size
                reserved = size
            with atomic_write(kept, sync=False) as temporary:
                np.save(temporary, pixels)
                flush(temporary)
                with self._used() as used:
                    if kept.exists():  # another process was faster: its bytes are counted already
                        used[0] -= reserved
        except OSError as error:
            with suppress(OSError), self._used() as used:
                used[0] -= reserved
            self._close(f"takes no more: {error.strerror}")

    def _remove(self, kept: Path) -> None:
        with suppress(OSError):
            size = kept.stat().st_size
            kept.unlink()
            with self._used() as used:
                used[0] -= size

    def _close(self, why: str) -> None:
        self._is_open = False
        logger.warning(
            "the cache %s %s; further images are decoded each time", self.folder.name, why
        )

    @contextmanager
    def _used(self) -> Iterator[list[int]]:
        """The bytes in use, in a list of one, to be read and changed by one process at a time."""
        file = self.folder / "bytes_used"
        with file_lock(file, wait=True):
            text = file.read_text().strip()
            used = [int(text) if text.isdigit() else self._measured()]
            yield used
            file.write_text(str(max(0, used[0])))

    def _measured(self) -> int:
        return sum(
            file.stat().st_size
            for file in self.folder.glob("*/*.npy")
            if not file.name.startswith(".")
        )


def decoded_cache(folder: str | None, max_gb: float) -> DecodedCache | None:
    """A cache in `folder`, or none at all."""
    return None if folder is None else DecodedCache(folder, max_gb)


def _narrowest(pixels: NDArray[np.integer]) -> NDArray[np.integer]:
    """The same numbers in the fewest bytes: ids of Cityscapes fit into two."""
    if pixels.dtype == np.uint8:
        return pixels
    return pixels.astype(np.min_scalar_type(int(pixels.max(initial=0))))


IDS = "ids"  # a panoptic label's colours as numbers, R + 256 G + 256^2 B
CHANNELS = {"RGB": 3, "BGR": 3, IDS: 3, "L": 1}  # of the PNGs that hold a format as it is


class Source:
    """A file's pixels, decoded as far as they are asked for.

    Attributes:
        file: its name.
        kind: see `open_source`.
        shape: (H, W).
    """

    def __init__(
        self,
        file: str,
        kind: str,
        shape: tuple[int, ...],
        decode: Callable[[int], NDArray[np.integer]],
    ) -> None:
        self.file, self.kind, self.shape, self._decode = file, kind, (shape[0], shape[1]), decode

    def rows(self, stop: int) -> NDArray[np.integer]:
        """At least the rows below `stop`; (rows, W, 3), or (rows, W) of labels."""
        return self._decode(stop)


def open_source(file: str, kind: str, cache: DecodedCache | None = None) -> Source:
    """Look at a file; its pixels equal those of Detectron2's `read_image`.

    Args:
        kind: "RGB", "BGR", "L", or `IDS`: (H, W) numbers of a panoptic label's colours.
        cache: where whole decoded files are kept.

    Raises:
        DatasetError: the file is missing, truncated or no image; here, or when rows are asked for.
    """
    if cache is not None:
        pixels = cache.get(file, kind, lambda: _whole(file, kind))
        return Source(file, kind, pixels.shape, lambda stop: pixels)
    try:
        with PathManager.open(file, "rb") as opened:
            content = opened.read()
    except OSError:
        content = b""  # `read_image` will say what is wrong
    shape = plain_png(content)
    if shape is None or CHANNELS.get(kind) != shape[2]:
        pixels = _whole(file, kind)
        return Source(file, kind, pixels.shape, lambda stop: pixels)

    def decode(stop: int) -> NDArray[np.integer]:
        rows = first_rows(content, stop)
        return _whole(file, kind) if rows is None else _as(rows, kind)

    return Source(file, kind, shape, decode)


def _whole(file: str, kind: str) -> NDArray[np.integer]:
    pixels = read_image(file, "RGB" if kind == IDS else kind)
    if kind == "L":
        return pixels.squeeze(2)
    return _as(pixels, kind) if kind == IDS else pixels


def _as(rows: NDArray[np.uint8], kind: str) -> NDArray[np.integer]:
    """RGB or grey rows as the kind wants them."""
    if kind == "BGR":
        return rows[:, :, ::-1]
    if kind == IDS:
        return colors_to_ids(rows)
    return rows
