"""One output folder for all processes of a run, also where each of them runs Hydra by itself.

torchrun starts run.py once per process, `launch.machine_rank` once per machine. The first process
chooses the folder and keeps the records in it.
"""

import itertools
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from panoptic_dl.core.errors import one_line
from panoptic_dl.core.files import PROGRAM, local_path

REQUEUE_NEEDS_FOLDER = (
    "launch.requeue=true starts the same command again, which must find its folder: name one "
    "without the time in it, run_dir=FOLDER (a sweep: sweep_dir=FOLDER)"
)


class CheckOutputFolder(Callback):
    """Choose one folder for all processes; Hydra itself writes nothing (`hydra.output_subdir`).

    The program ends with one line when that folder cannot be written.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with read_write(config), open_dict(config):
            config.hydra.run.dir = str(_shared_folder(config))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if any(each.lstrip("+").startswith("run_dir=") for each in config.hydra.overrides.task):
            raise SystemExit(
                "error: run_dir=FOLDER is of one run; with -m every row has a folder of its own "
                "in sweep_dir=FOLDER: give that"
            )
        by_slurm = str(config.hydra.launcher._target_).endswith(".SlurmLauncher")
        if _under_torchrun() or (config.launch.num_machines > 1 and not by_slurm):
            raise SystemExit(
                "error: torchrun and launch.machine_rank start one run, not a sweep. SLURM starts "
                f"sweeps on several machines: {PROGRAM} -m hydra/launcher=slurm launch=slurm "
                "launch.num_machines=N ...; on one machine leave torchrun out"
            )
        folder = str(_make(_local(config.hydra.sweep, "sweep_dir"), "sweep_dir"))
        if folder != config.hydra.sweep.dir:
            with read_write(config), open_dict(config):  # the rows are composed anew
                config.hydra.sweep.dir = folder
                quoted = folder.replace("'", "\\'")
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def _local(place: Any, key: str) -> Path:
    """The folder of `hydra.run` or `hydra.sweep`, which `key` names."""
    try:
        return local_path(place.dir, key)
    except (ValueError, OmegaConfBaseException) as error:
        raise SystemExit(f"error: {one_line(error)}") from None


def _make(folder: Path, key: str, *, fresh: bool = False) -> Path:
    """Make an output folder, which `key` names, and try to write to it.

    One that is named after its second (`fresh`) gets `-2` and so on where another job has it.
    """
    try:
        name = folder.name
        for number in itertools.count(2):
            try:
                folder.mkdir(parents=True, exist_ok=not fresh)
                break
            except FileExistsError:
                if not fresh:
                    raise
                folder = folder.with_name(f"{name}-{number}")
        with tempfile.TemporaryFile(dir=folder):
            pass
        return folder
    except OSError as error:
        raise SystemExit(
            f"error: cannot write to the output folder {folder}: {error.strerror}. "
            f"Choose another: {key}=FOLDER"
        ) from None


def _is_main_process(config: DictConfig) -> bool:
    """Whether this process writes what is written once per run."""
    if _under_torchrun():
        return int(os.environ["RANK"]) == 0
    return config.launch.machine_rank == 0


def _shared_folder(config: DictConfig) -> Path:
    """The output folder of a single run, which the main process makes; SystemExit without one."""
    folder = _local(config.hydra.run, "run_dir")
    dated = has_time(config.hydra.run, config)
    if config.launch.requeue and dated:
        raise SystemExit(f"error: {REQUEUE_NEEDS_FOLDER}")
    if _under_torchrun():
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and dated:
            raise SystemExit(
                "error: torchrun --max-restarts has to find the folder again: name it, "
                "run_dir=/shared/folder, and add resume=auto"
            )
        if _is_main_process(config):
            folder = _make(folder, "run_dir", fresh=dated)
        return Path(_from_rank_0(str(folder.absolute())))
    if config.launch.num_machines > 1 and dated:
        raise SystemExit(
            "error: several machines share one folder: give all of them the same "
            "run_dir=/shared/folder"
        )
    return _make(folder, "run_dir", fresh=dated) if _is_main_process(config) else folder


def is_recorded(config: DictConfig, job: Any) -> bool:
    """Whether this process writes `run.json`: the main process of a run that is no trial."""
    trial = job.runtime.choices.get("mode") == "train" and config.train.fast_dev_run is True
    return _is_main_process(config) and not trial


def config_texts(config: DictConfig, job: Any) -> dict[str, str]:
    """What `.hydra` records of a start: files by name; {} in processes that record nothing."""
    if not _is_main_process(config):
        return {}
    parts = {"config": config, "hydra": OmegaConf.create({"hydra": job})}
    parts["overrides"] = job.overrides.task
    return {f"{name}.yaml": OmegaConf.to_yaml(part) for name, part in parts.items()}


def check_requeue(config: DictConfig, job: Any) -> None:
    """Refuse `launch.requeue=true` where the command, started again, would not go on.

    `config` is not yet resolved, `job` its `hydra` node. ValueError has the missing override.
    """
    if not config.launch.requeue:
        return
    if config.resume != "auto":
        raise ValueError(
            f"launch.requeue=true starts the same command again: it needs resume=auto, not "
            f"resume={str(config.resume).lower()}"
        )
    in_sweep = job.mode == RunMode.MULTIRUN
    # Keeps a sweep's folder.
    by_submitit = in_sweep and re.search("submitit|SlurmLauncher", job.launcher._target_)
    if not by_submitit and has_time(job.sweep if in_sweep else job.run, config):
        raise ValueError(REQUEUE_NEEDS_FOLDER)


def has_time(place: Any, config: DictConfig) -> bool:
    """Whether `place`, `hydra.run` or `hydra.sweep`, is named after the time of its start."""
    text = OmegaConf.to_yaml(place)  # interpolations as they are written
    for key in ("run_dir", "sweep_dir"):
        if f"${{{key}}}" in text:
            text += OmegaConf.to_yaml(OmegaConf.masked_copy(config, key))
    return "${now:" in text


def _under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


_store = None


def _from_rank_0(folder: str) -> str:
    """The folder of torchrun's rank 0, which is `folder` there."""
    from torch.distributed.rendezvous import rendezvous  # seconds, and only torchrun needs it

    global _store  # kept: where rank 0 itself serves it, training meets in the same one
    _store, rank, _ = next(rendezvous("env://"))
    if rank == 0:
        _store.set("panoptic_dl/run_dir", folder)
    return _store.get("panoptic_dl/run_dir").decode()
