"""Callbacks of Hydra around a sweep: its rows before it, their status and reports after it."""

from pathlib import Path
from shutil import which
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from panoptic_dl.config.builder import find_target
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.run_folder import write_sweep
from panoptic_dl.sweeps.status import conclude
from panoptic_dl.sweeps.table import plan_sweep


class Sweep(Callback):
    """Give a sweep its rows, their folders and its seeds; at its end print the rows' status.

    The program then ends with exit code 1 when a row has failed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        chosen = config.hydra.runtime.choices.get("sweep")
        if chosen or config.sweep.seeds is not None:
            what = f"sweep={chosen} is a table" if chosen else "sweep.seeds repeats rows"
            raise SystemExit(f"error: {what}, for sweeps: python run.py -m ...")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if str(config.hydra.launcher._target_).endswith(".SlurmLauncher") and not which("srun"):
            raise SystemExit(
                "error: hydra/launcher=slurm submits jobs with srun and sbatch, not found "
                "here: start on a machine of the cluster, or with hydra/launcher=local"
            )
        with one_line_errors():  # Hydra goes on after other errors, and would run without a plan
            with read_write(config), open_dict(config):
                rows = plan_sweep(config)
            if rows is not None:
                write_sweep(Path(config.hydra.sweep.dir), rows)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if str(config.hydra.sweeper._target_).endswith(".OptunaSweeper"):
            return  # which has printed its trials; some of them may fail
        text, is_good = conclude(Path(config.hydra.sweep.dir))
        if text:
            print(text)
        if not is_good:
            raise SystemExit(1)


class AfterSweep(Callback):
    """Call functions with the folder of a sweep when all its jobs are done; print their texts.

    Args:
        functions: dotted names that configs may call (see `panoptic_dl.config.builder.allow`), from
            a `Path` to text or None.
    """

    def __init__(self, functions: list[str]) -> None:
        self.functions = functions

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        for name in self.functions:
            text = find_target(name)(Path(config.hydra.sweep.dir))
            if text:
                print(text)
