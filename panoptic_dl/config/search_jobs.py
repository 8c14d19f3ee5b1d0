"""One trial of a search as a job of Hydra's launchers, whatever way it ends."""

import math
import os
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.types import TaskFunction
from omegaconf import DictConfig

STOPPED = (75, 130)  # exit codes of a run that was stopped from outside: panoptic_dl.engine


class EndedEarly(Exception):
    """A job ended by SystemExit, in another process than the search's own."""

    def __init__(self, code: Any) -> None:
        super().__init__(code)
        self.code = code


class Job:
    """The task function of a search: SystemExit, which would end the search, becomes an error.

    One that was caused by Ctrl-C or SIGTERM goes on to end the search, where it can.
    """

    def __init__(self, task: TaskFunction) -> None:
        self.task, self.process = task, os.getpid()

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except SystemExit as end:
            if end.code in STOPPED and os.getpid() == self.process:
                raise
            raise EndedEarly(end.code) from None


def outcome(job: JobReturn | Exception, folder: Path) -> float | str | None:
    """A trial's figure, or in one line why it has none, or None if it was stopped from outside.

    Args:
        job: what the launcher gave back, or what it raised.
        folder: of the trial; a row leaves there what was wrong, in failed.txt.
    """
    try:
        if isinstance(job, Exception):
            raise job
        value = job.return_value
    except EndedEarly as end:
        if end.code in STOPPED:
            return None
        return _said(folder) or f"ended with exit code {end.code}"
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return _said(folder) or f"{type(error).__name__}: {first}"
    try:
        figure = float(value)
    except (TypeError, ValueError):
        return _said(folder) or f"gave {value!r} in place of a figure"
    if not math.isfinite(figure):
        return _said(folder) or f"its figure is {figure}"
    return figure


def _said(folder: Path) -> str | None:
    """The first line of a row's error, which it has left in its folder."""
    try:
        return (folder / "failed.txt").read_text(errors="replace").strip() or None
    except OSError:
        return None
