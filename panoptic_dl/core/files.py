"""Files that are there whole or not at all, whatever interrupts their writing.

One run at a time in a folder.

Files that are there whole or not at all, and what an interrupted process leaves of them.

Files that are there whole or not at all, and errors that name them.

Shapes: H W pixels.

Texts of a file, for people: a name may hold what moves a terminal's cursor or forges a line.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from panoptic_dl.core.errors import EvaluationError


def save_whole(target: Path, state: dict[str, Any]) -> str:
    """`torch.save`, replacing a file of that name once the new one reads back; return its SHA-256.

    Raises:
        OSError: there is no room, or what was written does not read back; nothing changed.
    """
    import torch  # takes seconds, and small files do without

    temporary = target.with_name(f"{target.name}.partial")
    try:
        with temporary.open("wb") as file:
            hashing = _Hashing(file)
            torch.save(state, cast(BinaryIO, hashing))
            file.flush()
            os.fsync(file.fileno())
        if sha256_of(temporary) != hashing.sha256.hexdigest():
            raise OSError("what was written does not read back")
        temporary.replace(target)
        sync_folder(target.parent)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    return hashing.sha256.hexdigest()


def write_text(target: Path, text: str) -> None:
    """Replace a small file, and see that the disk knows of it.

    Raises:
        OSError: there is no room; the file from before is as it was.
    """
    temporary = target.with_name(f"{target.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        flush(temporary)
        temporary.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def flush(path: Path) -> None:
    """Have the system write a file to the disk now."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """A rename is on the disk only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


logger = logging.getLogger(__name__)

FILE = ".lock"  # of what trains in a folder
RUN_LOCK = ".run.lock"  # held as long as the process that started a run lives


@contextlib.contextmanager
def folder_lock(folder: Path, name: str = FILE, key: str = "run_dir") -> Iterator[None]:
    """Hold the folder, for the main process of a run; the system lets go when the process ends.

    A record lock, which forked loader workers do not inherit, and which works over NFS.

    Args:
        name: of the lock; several may be held in one folder.
        key: of the config that names the folder.

    Raises:
        ValueError: another process holds it.
    """
    path = folder / name
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"{folder} is in use by {holder}: wait for that run, end it, or name another {key}"
            ) from error
        except OSError as error:
            logger.warning("This disk has no locks (%s): never start two runs in %s", error, folder)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def is_held(path: Path) -> bool:
    """Whether another process holds such a lock; asking does not take it, not for a moment."""
    try:
        with path.open("rb") as file:
            # struct flock of 64-bit Linux: type, whence, start, length, process.
            question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
    except OSError:  # no such file, or a disk without locks
        return False
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK


def is_alive(folder: Path) -> bool:
    """Whether a run is under way in a folder, on this machine or on one that shares its disk."""
    return is_held(folder / RUN_LOCK) or is_held(folder / FILE)


_OURS = re.compile(r"\.unfinished\.\d+\..+")


@contextlib.contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
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


TEMPORARY = ".tmp"


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Name the file when the disk refuses it.

    Raises:
        EvaluationError: what is inside raised OSError: the disk is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"cannot write {file} ({error.strerror or error}); make room there, or save "
            "predictions in another folder"
        ) from error


@contextmanager
def atomic_prediction_file(file: Path) -> Iterator[Path]:
    """A temporary file beside `file`, which takes its name when nothing goes wrong.

    Its name begins with a dot, so that no script's pattern finds it.

    Raises:
        EvaluationError: the disk refuses it.
    """
    # Of this process: another that predicts the same image must not take it for its own.
    temporary = file.with_name(f".{file.name}.{os.getpid()}{TEMPORARY}")
    with writing(file):
        try:
            yield temporary
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_png(file: Path, pixels: np.ndarray) -> None:
    """Write a picture, (H, W) or (H, W, 3) uint8.

    Raises:
        EvaluationError: the disk refuses it.
    """
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    with atomic_prediction_file(file) as temporary:
        temporary.write_bytes(buffer.getvalue())


def write_prediction_text(file: Path, text: str) -> None:
    """Write a small text.

    Raises:
        EvaluationError: the disk refuses it.
    """
    with atomic_prediction_file(file) as temporary:
        temporary.write_text(text)


def inside(root: Path, base: Path, name: str, source: Path) -> Path:
    """The file that `name` in `source` means.

    Args:
        root: folder that must hold the file.
        base: folder that the name is relative to.
        name: what is written.
        source: the file it is written in, for messages.

    Raises:
        EvaluationError: it lies outside, so that a downloaded file could make us read any other.
    """
    file = Path(os.path.normpath(base.absolute() / name))
    if os.path.isabs(name) or not file.is_relative_to(os.path.normpath(root.absolute())):
        raise EvaluationError(
            f"{source} names the file {name}, which is not inside {root}: write names relative to "
            "the folder of that file"
        )
    return file


LONGEST = 200


def printable(value: Any, longest: int = LONGEST) -> str:
    """A name or text that comes from a file, with `?` for control characters, cut to a length.

    Containers are named by their type: what is in them may be too large, or nested too deeply, to
    be written out.
    """
    if value is None or type(value) in (bool, int, float):
        # Not an int of a million digits: writing it takes minutes, or is an error of Python.
        if type(value) is int and value.bit_length() > 256:
            return "a very large number"
        return str(value)
    if not isinstance(value, str):
        return f"({type(value).__name__})"
    text = "".join(c if c.isprintable() else "?" for c in value[:longest])
    return text + ("..." if len(value) > longest else "")
