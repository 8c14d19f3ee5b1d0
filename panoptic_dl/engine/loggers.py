"""Loggers of a run: told how it begins, and how it ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from panoptic_dl.loggers.interface import Figures, Logger, Run
from panoptic_dl.loggers.several import Loggers

from .exit_codes import ExitCode
from .interrupt import Interrupted
from .run_state import read_state


def start_loggers(
    loggers: Loggers,
    folder: Path,
    mode: str,
    *,
    start: int = 0,
    history: Sequence[Figures] = (),
    modules: Sequence[tuple[str, str, int, int]] = (),
) -> None:
    """Tell loggers of the run in a folder, with what is recorded there; see `Run`."""
    if loggers:
        loggers.start(Run(folder, mode, start, history, modules, read_state(folder)))


def tell_of_figures(
    loggers: Mapping[str, Logger] | None,
    folder: Path,
    mode: str,
    figures: Figures,
    pictures: Sequence[Path],
) -> None:
    """Tell loggers of a run that is over, with nothing but figures."""
    listening = Loggers(loggers)
    start_loggers(listening, folder, mode)
    listening.measured(figures, pictures)
    listening.finish("finished", 0)


def how_it_ended(error: BaseException | None) -> tuple[str, int]:
    """The status and the exit code of a run that raised `error`, or nothing."""
    if error is None:
        return "finished", 0
    if isinstance(error, KeyboardInterrupt):
        saved = isinstance(error, Interrupted)
        return "stopped", ExitCode.SAVED if saved else ExitCode.INTERRUPTED
    diverged = isinstance(error, FloatingPointError)
    return "failed", ExitCode.DIVERGED if diverged else ExitCode.ERROR
