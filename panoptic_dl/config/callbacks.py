"""Look at the output folder before Hydra writes to it."""

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write


class CheckOutputFolder(Callback):
    """End the program with one line when the output folder cannot be written; keep old records."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.run.dir)
        self._check(folder, "run_dir")
        if (folder / ".hydra").exists():  # the record of how the run was started stays as it is
            with read_write(config), open_dict(config):
                now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
                config.hydra.output_subdir = f".hydra/{now}"

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
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


class AfterSweep(Callback):
    """Call functions with the folder of a sweep when all its jobs are done; print what they say.

    Args:
        functions: dotted names that configs may call (see `panoptic_dl.config.builder.allow`), from
            a `Path` to text or None.
    """

    def __init__(self, functions: list[str]) -> None:
        self.functions = functions

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from .builder import find_target

        for name in self.functions:
            said = find_target(name)(Path(config.hydra.sweep.dir))
            if said:
                print(said)
