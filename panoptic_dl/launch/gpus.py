"""The GPUs of a machine, given out to the jobs of a sweep that run at the same time.

The sweep names its GPUs in an environment variable. A job takes as many as it needs, one lock file
for each, and keeps them until its process ends, however it ends. Sweeps of one user on one machine
give out the same GPUs, each to one job at a time.
"""

import contextlib
import itertools
import os
import stat
import sys
import tempfile
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from panoptic_dl.core.files import acquire_lock, file_lock

GIVEN_OUT = "PANOPTIC_DL_GPUS"  # names as in CUDA_VISIBLE_DEVICES, set by the sweep
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: dict[str, int | None] = {}  # locks, until this process ends


def give_out_gpus(environment: MutableMapping[str, str] = os.environ) -> None:
    """In a sweep, name the GPUs that the processes which start from here may take."""
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        # CUDA stops at the first name that is none, such as the -1 that hides all.
        names = list(itertools.takewhile(lambda name: name and name != "-1", names))
    else:
        import torch

        names = [str(index) for index in range(torch.cuda.device_count())]
    environment[GIVEN_OUT] = ",".join(names)
    # Asking PyTorch whether there is CUDA must not start it, before a job has taken its own.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"


def take_gpus(wanted: int | None, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """In a job of a sweep, take GPUs that no other job has; wait until there are enough.

    Call it before CUDA starts: the process then sees these GPUs only. Returns their names, none
    where GPUs are not given out; ValueError for more than the machine has.
    """
    if GIVEN_OUT not in environment:
        return []
    there = [name for name in environment[GIVEN_OUT].split(",") if name]
    number = min(1, len(there)) if wanted is None else wanted
    if number > len(there):
        raise ValueError(
            f"launch.num_gpus={number}, but the sweep has {len(there)} to give out. Choose "
            f"launch.num_gpus={len(there)}" + ("" if there else " (the CPU)")
        )
    if number:
        _held.update(_wait_for(number, there))
    names = list(_held)
    environment[VISIBLE] = ",".join(names)
    return names


def _wait_for(number: int, there: Sequence[str]) -> dict[str, int | None]:
    """Lock `number` GPUs, one job at a time, so that none waits for those of another for ever."""
    folder = _lock_folder()
    taken: dict[str, int | None] = {}
    print(f"GPUs: waiting for {number} of {len(there)}", file=sys.stderr, flush=True)
    with file_lock(folder / "line"):
        while len(taken) < number:
            for name in there:
                if name not in taken and len(taken) < number:
                    with contextlib.suppress(BlockingIOError):
                        taken[name] = acquire_lock(folder / name.replace("/", "_"))
            if len(taken) < number:
                time.sleep(0.5)
    print(f"GPUs: this job has taken {', '.join(taken)}", file=sys.stderr, flush=True)
    return taken


def _lock_folder() -> Path:
    """A folder of this user on this machine; ValueError if another user has made it."""
    folder = Path(tempfile.gettempdir(), f"panoptic-dl-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder
