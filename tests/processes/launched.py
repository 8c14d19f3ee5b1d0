"""Programs that tests start: what a process of a run does, reduced to what the test looks at."""

import os
import signal
import sys
import time
from pathlib import Path

from detectron2.utils import comm

from panoptic_dl.launch.launcher import launch

NUMBERS = {"num_gpus": 0, "num_cpu_processes": 2}


def note(device: str, folder: str) -> None:
    """Say who one is."""
    text = f"{comm.get_rank()} of {comm.get_world_size()}, here {comm.get_local_rank()}, {device}"
    Path(folder, f"rank{comm.get_rank()}.txt").write_text(text)


def wait(device: str, folder: str) -> None:
    """Save and end on a signal, as training does; note which came and how often."""
    came = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: came.append(number))
    Path(folder, f"pid{comm.get_rank()}.txt").write_text(str(os.getpid()))
    while not came:
        time.sleep(0.1)
    time.sleep(1)
    Path(folder, f"came{comm.get_rank()}.txt").write_text(str(came))
    sys.exit(75)


def deaf(device: str, folder: str) -> None:
    """Hear nothing, as a process that hangs in a collective operation."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Path(folder, f"pid{comm.get_rank()}.txt").write_text(str(os.getpid()))
    time.sleep(600)


def busy(device: str, folder: str) -> None:
    """Work with the others until one of them has had enough, as training does."""
    import torch

    Path(folder, f"pid{comm.get_rank()}.txt").write_text(str(os.getpid()))
    while True:
        if comm.get_rank() == 1 and Path(folder, "raise").exists():
            raise ValueError("a torn image")
        torch.distributed.all_reduce(torch.ones(1))
        time.sleep(0.05)


def stuck(device: str, folder: str) -> None:
    """The process of machine 0 waits as in NCCL, for the one of machine 1, which is at work."""
    (deaf if comm.get_rank() == 0 else wait)(device, folder)


def fail(device: str, folder: str) -> None:
    """One process fails while the other goes on."""
    if comm.get_rank() == 1:
        sys.exit(3)
    time.sleep(600)


def inner(device: str, name: str, folder: str) -> None:
    """Call a function above as a process of a run does, and note who takes the group down."""
    from torch import distributed

    from panoptic_dl.launch.session import session

    destroy, mark = distributed.destroy_process_group, Path(folder, f"destroyed{comm.get_rank()}")
    distributed.destroy_process_group = lambda: (mark.touch(), destroy())
    with session(folder, ends=False):
        globals()[name](device, folder)


if __name__ == "__main__":
    from panoptic_dl.launch import launcher
    from panoptic_dl.launch.session import session

    launcher.ORPHANS_LIVE = 1.0
    folder, numbers = sys.argv[2], NUMBERS
    if len(sys.argv) > 3:  # one of two machines
        numbers = {"num_gpus": 0, "num_machines": 2, "timeout_minutes": 1}
        numbers |= {"machine_rank": int(sys.argv[3]), "dist_url": sys.argv[4]}
        numbers |= {"num_cpu_processes": int(sys.argv[5])}
    with session(folder):
        launch(inner, sys.argv[1], folder, **numbers)
