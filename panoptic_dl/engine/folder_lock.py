"""One run at a time in a folder."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

FILE = ".lock"


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, for the main process of a run; the system lets go when the process ends.

    A record lock, which forked loader workers do not inherit, and which works over NFS.

    Raises:
        ValueError: another process holds it.
    """
    path = folder / FILE
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ValueError(
                f"{folder} is in use by {holder}: wait for that run, end it, or name another "
                "run_dir"
            ) from error
        except OSError as error:
            logger.warning("This disk has no locks (%s): never start two runs in %s", error, folder)
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
