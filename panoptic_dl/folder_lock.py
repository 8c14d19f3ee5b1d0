"""One run at a time in a folder."""

import contextlib
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

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
