"""One output folder for all processes of a run, also where each of them runs Hydra by itself.

torchrun starts run.py once per process, `launch.machine_rank` once per machine. The first process
decides on the folder and keeps the records in it; the others are told, or must have been.
"""

import os
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

_store = None


def under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first(config: DictConfig) -> bool:
    """Whether this process writes what is written once per run."""
    if under_torchrun():
        return int(os.environ["RANK"]) == 0
    return config.launch.machine_rank == 0


def agree_on_folder(config: DictConfig) -> Path:
    """The output folder of a single run, the same one in all its processes.

    Args:
        config: the whole config, `hydra` included.

    Raises:
        ValueError: each machine or attempt would make a folder of its own.
    """
    folder = Path(config.hydra.run.dir)
    dated = has_time(config.hydra.run, config)
    if under_torchrun():
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and dated:
            raise ValueError(
                "torchrun --max-restarts has to find the folder again: name it, "
                "run_dir=/shared/folder, and add resume=auto"
            )
        return Path(_ask_first(str(folder.absolute())))
    if config.launch.num_machines > 1 and dated:
        raise ValueError(
            "several machines share one folder: give all of them the same run_dir=/shared/folder"
        )
    return folder


def has_time(place: Any, config: DictConfig) -> bool:
    """Whether the folder of a run or sweep is named after the time of its start.

    Args:
        place: `hydra.run` or `hydra.sweep`.
        config: has `run_dir` and `sweep_dir`, which the folder usually is.
    """
    folder = _as_written(place, "dir")
    for key in ("run_dir", "sweep_dir"):
        if f"${{{key}}}" in folder:
            folder += _as_written(config, key)
    return "${now:" in folder


def _as_written(node: Any, key: str) -> str:
    tree: Any = OmegaConf.to_container(node, resolve=False)
    return str(tree[key])


def found_again(hydra: Any, config: DictConfig) -> bool:
    """Whether this job, requeued, has the same output folder: submitit keeps that of a sweep."""
    if hydra.mode != RunMode.MULTIRUN:
        return not has_time(hydra.run, config)
    return "submitit" in hydra.launcher._target_ or not has_time(hydra.sweep, config)


def _ask_first(folder: str) -> str:
    """What rank 0 of torchrun answers, which is `folder` there."""
    from torch.distributed.rendezvous import rendezvous  # seconds, and only torchrun needs it

    global _store  # kept: where rank 0 itself serves it, training meets in the same one
    _store, rank, _ = next(rendezvous("env://"))
    if rank == 0:
        _store.set("panoptic_dl/run_dir", folder)
    return _store.get("panoptic_dl/run_dir").decode()
