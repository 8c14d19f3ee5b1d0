"""Files that are there whole or not at all, whatever interrupts their writing."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO, cast


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
