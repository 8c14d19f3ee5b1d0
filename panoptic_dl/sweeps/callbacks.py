"""Look at the output folder before Hydra writes to it."""

import tempfile
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from panoptic_dl.config.run_identity import agree_on_folder, is_first, under_torchrun
from panoptic_dl.launch.gpus import give_out_gpus
from panoptic_dl.sweeps.table import SweepError, keep_plan, leave_out, narrow, plan, with_seeds


class CheckOutputFolder(Callback):
    """Settle on one folder for all processes; keep old records.

    The program ends with one line when that folder cannot be written.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            folder = agree_on_folder(config)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        with read_write(config), open_dict(config):
            if not is_first(config):  # the first process records how the run was started
                config.hydra.run.dir = str(folder)
                config.hydra.output_subdir = None
                return
            self._check(folder, "run_dir")
            if (folder / ".hydra").exists():  # the record of an earlier start stays as it is
                now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
                config.hydra.output_subdir = f".hydra/{now}"

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        by_slurm = str(config.hydra.launcher._target_).endswith(".SlurmLauncher")
        if under_torchrun() or (config.launch.num_machines > 1 and not by_slurm):
            raise SystemExit(
                "error: torchrun and launch.machine_rank start one run, not a sweep. SLURM starts "
                "sweeps on several machines: python run.py -m hydra/launcher=slurm launch=slurm "
                "launch.num_machines=N ...; on one machine leave torchrun out"
            )
        self._check(Path(config.hydra.sweep.dir), "hydra.sweep.dir")

    @staticmethod
    def _check(folder: Path, key: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SystemExit(
                f"error: cannot write to the output folder {folder}: {error.strerror}. "
                f"Choose another: {key}=FOLDER"
            ) from None


class Sweep(Callback):
    """Give a sweep its rows, their folders and its seeds; at its end say how the rows stand.

    The program then ends with exit code 1 when a row has failed.

    Args:
        status: dotted name of a function from the sweep's folder to text (or None) and whether all
            went well.
    """

    def __init__(self, status: str) -> None:
        self.status = status

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        chosen = config.hydra.runtime.choices.get("sweep")
        if chosen or config.sweep.seeds is not None:
            what = f"sweep={chosen} is a table" if chosen else "sweep.seeds repeats rows"
            raise SystemExit(f"error: {what}, for sweeps: python run.py -m ...")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            with read_write(config), open_dict(config):
                narrow(config)
                with_seeds(config)
                found = plan(config)
                if found is not None:
                    leave_out(config, found.unsaid)
                    keep_plan(Path(config.hydra.sweep.dir), found.rows)
        except (SweepError, OSError) as error:
            raise SystemExit(f"error: {error}") from None
        except Exception as error:  # Hydra would go on, and run the sweep without its plan
            traceback.print_exc()
            raise SystemExit(f"error: this sweep cannot be planned: {error}") from None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from panoptic_dl.config.builder import find_target

        if str(config.hydra.sweeper._target_).endswith(".OptunaSweeper"):
            return  # which has told of its trials, and counts on failed ones
        text, well = find_target(self.status)(Path(config.hydra.sweep.dir))
        if text:
            print(text)
        if not well:
            raise SystemExit(1)


class GiveOutGpus(Callback):
    """Where jobs of a sweep run beside each other on this machine, each takes GPUs of its own."""

    BESIDE = (".JoblibLauncher", ".LocalLauncher")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if str(config.hydra.launcher._target_).endswith(self.BESIDE):
            give_out_gpus()


class AfterSweep(Callback):
    """Call functions with the folder of a sweep when all its jobs are done; print what they say.

    Args:
        functions: dotted names that configs may call (see `panoptic_dl.config.builder.allow`), from
            a `Path` to text or None.
    """

    def __init__(self, functions: list[str]) -> None:
        self.functions = functions

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from panoptic_dl.config.builder import find_target

        for name in self.functions:
            said = find_target(name)(Path(config.hydra.sweep.dir))
            if said:
                print(said)
