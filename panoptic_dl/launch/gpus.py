"""The GPUs of a machine, given out to the jobs of a sweep that run beside each other.

The sweep says in an environment variable which GPUs there are; a job takes as many of them as it
needs, one lock file a GPU, and keeps them until its process ends, however it ends. Sweeps of one
user on one machine give out the same GPUs, each to one job at a time.
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

from panoptic_dl.core.files import acquire_lock, file_lock, is_locked

GIVEN_OUT = "PANOPTIC_DL_GPUS"  # names as in CUDA_VISIBLE_DEVICES, set by the sweep
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: dict[str, int | None] = {}  # a process of joblib keeps them for its next job


def give_out_gpus(environment: MutableMapping[str, str] = os.environ) -> None:
    """Tell the processes that start from here which GPUs they may take; for the sweep itself."""
    environment[GIVEN_OUT] = ",".join(_visible(environment))
    # Asking PyTorch whether there is CUDA must not start it, before a job has taken its own.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"


def take_gpus(wanted: int | None, environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take GPUs that no other job has, where a sweep gives them out; wait until there are enough.

    Call it before CUDA starts: the process then sees these GPUs only.

    Args:
        wanted: how many; None: one if there is one.

    Returns:
        Their names; none where GPUs are not given out.

    Raises:
        ValueError: more than the machine has, or than a process that is used again has taken.
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
    if _held and number > len(_held):
        raise ValueError(
            f"launch.num_gpus={number}, but this process of joblib has taken {len(_held)} for an "
            "earlier job: give all jobs of the sweep the same number, or each a process of its "
            "own, hydra/launcher=local"
        )
    if not _held:
        _held.update(_wait_for(number, there, lock_folder()))
    names = list(_held)[:number]
    environment[VISIBLE] = ",".join(names)
    return names


def lock_folder() -> Path:
    """Of this user on this machine.

    Raises:
        ValueError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir(), f"panoptic-dl-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ValueError(f"{folder} belongs to another user; set TMPDIR to a folder of your own")
    return folder


def _visible(environment: MutableMapping[str, str]) -> list[str]:
    """The GPUs that this process could use, without starting CUDA."""
    if VISIBLE in environment:
        names = [name.strip() for name in environment[VISIBLE].split(",")]
        # CUDA stops at the first name that is none, such as the -1 that hides all.
        return list(itertools.takewhile(lambda name: name and name != "-1", names))
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _wait_for(number: int, there: Sequence[str], folder: Path) -> dict[str, int | None]:
    """Lock `number` GPUs. One job chooses at a time, so that none has some and waits for others'.

    A job that needs many is not overtaken by those that need few, either.
    """
    if number == 0:
        return {}
    taken: dict[str, int | None] = {}
    queue = folder / "line"
    if is_locked(queue):
        _say("waiting for the jobs that asked for GPUs before")
    with file_lock(queue, wait=True):
        told = False
        while True:
            for name in there:
                if name not in taken and len(taken) < number:
                    with contextlib.suppress(BlockingIOError):
                        taken[name] = acquire_lock(folder / name.replace("/", "_"))
            if len(taken) == number:
                _say(f"this job has taken {', '.join(taken)}")
                return taken
            if not told:
                _say(f"waiting for {number - len(taken)} of {len(there)}")
                told = True
            time.sleep(0.5)


def _say(text: str) -> None:
    """To whoever looks at the job's output: its log is not open yet."""
    print(f"GPUs: {text}", file=sys.stderr, flush=True)
