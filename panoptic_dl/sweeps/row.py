"""One row of a sweep: skipped when it is done, gone on with when it is not; it fails alone."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_dl.engine.checkpoint_files import NEWEST
from panoptic_dl.engine.exit_codes import ExitCode
from panoptic_dl.engine.requeue import Requeued
from panoptic_dl.engine.run_state import error_line, read_state

FAILED = "failed.txt"  # in a row's folder: the first line of what the last attempt ended with
STOPPING = (ExitCode.SAVED, ExitCode.INTERRUPTED)  # these end the whole sweep


@dataclass(frozen=True)
class Standing:
    """How a row's folder was found.

    Attributes:
        finished: nothing is left to do.
        resume: what `resume` shall be.
        figure: the first figure of a finished row, in percent; None: it has none.
    """

    finished: bool
    resume: bool | str
    figure: float | None = None


@contextlib.contextmanager
def failing_alone(folder: Path) -> Iterator[None]:
    """Around a row: its error ends the row, not the sweep; Ctrl-C and SIGTERM end the sweep."""
    with contextlib.suppress(OSError):
        (folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except SystemExit as stop:  # which has said why
        if stop.code in STOPPING or isinstance(stop, Requeued):
            raise
        if stop.code:
            _note(folder, _said(folder) or f"exit code {stop.code}")
    except Exception as error:
        traceback.print_exc()
        _note(folder, error_line("".join(traceback.format_exception(error))))


def standing(
    folder: Path,
    facts: Mapping[str, Any],
    resume: bool | str,
    differences: Callable[[], Sequence[str]],
) -> Standing:
    """Whether a row is done, and how it goes on.

    Args:
        folder: of the row.
        facts: see `panoptic_dl.config.identity.identity`.
        resume: as the command has it; False, the default, becomes `auto` for training.
        differences: keys that its config and that in the folder have different.

    Raises:
        ValueError: the folder holds a row with other numbers.
    """
    state = read_state(folder)
    if facts["mode"] != "train" or state.get("mode") != "train":
        return Standing(False, "auto" if facts["mode"] == "train" and not resume else resume)
    begun = state["status"] == "finished" or (folder / NEWEST).exists()
    if begun and state.get("config_hash") != facts["config_hash"]:
        keys = list(differences())
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        raise ValueError(
            f"{folder} holds this row with other numbers: {', '.join(keys[:4]) or 'unknown'}{more} "
            "differ. Choose another sweep_dir=FOLDER, or remove that folder to start anew"
        )
    if state["status"] != "finished":
        return Standing(False, resume or "auto")
    figures = list((state.get("metrics") or {}).values())
    return Standing(True, resume, figures[0] if figures else None)


def _said(folder: Path) -> str | None:
    """The message that `user_errors` has left, without the error's type."""
    try:
        line = error_line((folder / "error.txt").read_text())
        return line.partition(": ")[2] or line
    except (OSError, UnicodeDecodeError):
        return None


def _note(folder: Path, line: str) -> None:
    print(f"this row of the sweep failed: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).write_text(line + "\n")
