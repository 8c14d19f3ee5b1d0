"""Callbacks of Hydra around a sweep: its rows before it, their status and reports after it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from panoptic_dl.config.builder import find_target
from panoptic_dl.config.output_folder import has_time
from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import PROGRAM, file_lock
from panoptic_dl.core.run_folder import REFUSED, read_sweep, write_sweep
from panoptic_dl.sweeps.status import conclude
from panoptic_dl.sweeps.table import plan_sweep


class Sweep(Callback):
    """Give a sweep its rows, their folders and its seeds; at its end print the rows' status.

    The program then ends with exit code 1 when a row has failed.
    """

    rows: Mapping[str, Sequence[str]] | None = None  # of this command

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        chosen = config.hydra.runtime.choices.get("sweep")
        if chosen or config.sweep.seeds is not None:
            what = f"sweep={chosen} is a table" if chosen else "sweep.seeds repeats rows"
            raise SystemExit(f"error: {what}, for sweeps: {PROGRAM} -m ...")

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
                self.rows = rows
                folder = Path(config.hydra.sweep.dir)
                with file_lock(folder):
                    (folder / REFUSED).unlink(missing_ok=True)
                    listed: dict[str, Sequence[str]] = {}
                    with suppress(OSError, ValueError):  # rows of other commands stay
                        listed = read_sweep(folder)[1]
                    write_sweep(folder, listed | rows)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if str(config.hydra.sweeper._target_).endswith(".OptunaSweeper"):
            return  # which has printed its trials; some of them may fail
        folder = Path(config.hydra.sweep.dir)
        added = f" with sweep_dir={folder}" if has_time(config.hydra.sweep, config) else ""
        text, is_good = conclude(folder, self.rows, f"The same command{added}")
        if text:
            print(text)
        if not is_good:
            raise SystemExit(1)


class AfterSweep(Callback):
    """Call functions with the folder of a sweep when all its jobs are done; print their texts.

    `functions` are dotted names that configs may call (`panoptic_dl.config.builder.allow`), from a
    `Path` to text or None.
    """

    def __init__(self, functions: list[str]) -> None:
        self.functions = functions

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        for name in self.functions:
            text = find_target(name)(Path(config.hydra.sweep.dir))
            if text:
                print(text)
