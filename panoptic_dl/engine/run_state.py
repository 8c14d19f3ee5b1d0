"""`run.json`: what a run is, how it stands, and how long it has taken in all its attempts."""

import contextlib
import json
import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from panoptic_dl.environment import git_revision, measured_on
from panoptic_dl.evaluation.figures import as_json
from panoptic_dl.folder_lock import RUN_LOCK, folder_lock
from panoptic_dl.whole_files import write_text

from .exit_codes import ExitCode
from .requeue import Requeued

logger = logging.getLogger(__name__)

FILE = "run.json"
RESOLVED = ".hydra/resolved.yaml"
STOPPED = (ExitCode.SAVED, ExitCode.INTERRUPTED)


class RunState:
    """Writes `run.json`, for the process that starts a run. Never lets a run fail."""

    def __init__(self, run_dir: str, *, writes: bool) -> None:
        """
        Args:
            run_dir: of the run.
            writes: whether this process writes; only one of a run does.
        """
        self.folder, self.writes = Path(run_dir), writes
        self._started: float | None = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """A new attempt begins; one that was killed before is closed.

        Args:
            facts: see `panoptic_dl.config.identity.identity`.
        """
        if not self.writes:
            return
        before = read_state(self.folder)
        if before and before.get("mode") == "train" != facts.get("mode"):
            self.writes = False  # another mode in the folder of a training is no attempt of it
            return
        self._started = time.time()
        with _never_failing(self.folder / "error.txt"):
            (self.folder / "error.txt").unlink(missing_ok=True)  # of an attempt before this one
        attempts = [_closed(each, self.folder) for each in before.get("attempts", [])]
        attempts.append({"started": _iso(), "ended": None, "seconds": 0.0, "status": "running"})
        state = {
            "format": 1,
            **facts,
            "git": git_revision(),
            "environment": before.get("environment"),  # until the processes say theirs
            "status": "running",
            "error": None,
            "attempts": attempts,
            "wall_seconds": 0.0,
            "device_hours": 0.0,
            "metrics": before.get("metrics"),
        }
        _write(self.folder, _summed(state))

    def resolved(self, text: str) -> None:
        """Keep the whole config of this attempt."""
        if self.writes:
            with _never_failing(self.folder / RESOLVED):
                (self.folder / RESOLVED).parent.mkdir(exist_ok=True)
                write_text(self.folder / RESOLVED, text)

    def end(self, status: str, error: str | None = None) -> None:
        """The attempt is over: finished | stopped | failed."""
        state = read_state(self.folder) if self.writes else {}
        if self._started is None or not state:
            return
        state["attempts"][-1] |= {
            "ended": _iso(),
            "seconds": round(time.time() - self._started, 3),
            "status": status,
        }
        _write(self.folder, _summed(state | {"status": status, "error": error}))


@contextlib.contextmanager
def recorded(run_dir: str, *, writes: bool) -> Iterator[RunState]:
    """Around all that a run does: its end is written, whatever it is.

    A folder in which another run is under way keeps that one's record.
    """
    with contextlib.ExitStack() as held:
        if writes and Path(run_dir).is_dir():
            with _never_failing(Path(run_dir, RUN_LOCK)):
                try:
                    held.enter_context(folder_lock(Path(run_dir), RUN_LOCK))
                except ValueError:  # another run holds it; training will say so
                    writes = False
        state = RunState(run_dir, writes=writes)
        try:
            yield state
        except SystemExit as stop:
            if stop.code in STOPPED or isinstance(stop, Requeued):
                state.end("stopped")
            elif stop.code:
                state.end("failed", _in_error_file(Path(run_dir), stop.code))
            else:
                state.end("finished")
            raise
        except KeyboardInterrupt:
            state.end("stopped")
            raise
        except BaseException:  # none that a user can cure, so its traceback counts
            text = traceback.format_exc()
            if writes:
                with _never_failing(Path(run_dir, "error.txt")):
                    Path(run_dir, "error.txt").write_text(text)
            state.end("failed", error_line(text))
            raise
        state.end("finished")


def note(run_dir: str, **facts: Any) -> None:
    """Add what only the main process of a run knows: its environment, its figures."""
    state = read_state(Path(run_dir))
    if state.get("status") == "running":
        _write(Path(run_dir), _summed(state | facts))


def note_machine(run_dir: str, device: str) -> None:
    """What the run stands on; called by all its processes."""
    if comm.is_main_process():
        processes = comm.get_world_size()
        devices = processes if torch.device(device).type == "cuda" else 0
        counts = {"devices": devices, "processes": processes}
        note(run_dir, environment=measured_on(device) | counts)


def note_figures(run_dir: str, results: Mapping[str, Any] | None) -> None:
    """The figures that a mode has returned, which is on the main process."""
    if comm.is_main_process() and results:
        note(run_dir, metrics=as_json(results.get("metrics")))


def read_state(folder: Path) -> dict[str, Any]:
    """What `run.json` says; empty where there is none, or it is damaged."""
    try:
        state = json.loads((folder / FILE).read_bytes())
        whole = isinstance(state, dict) and isinstance(state.get("attempts"), list)
        if not whole or not _is_ours(state):
            raise ValueError("it is not what a run writes")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged and not used: %s", folder / FILE, error)
        return {}
    return state


def _is_ours(state: Mapping[str, Any]) -> bool:
    """Whether the fields on which others count are of their kinds."""
    figures = state.get("metrics") or {}
    return (
        isinstance(state.get("status"), str)
        and isinstance(figures, dict)
        and all(value is None or isinstance(value, (int, float)) for value in figures.values())
        and all(
            isinstance(each, dict)
            and isinstance(each.get("started"), str)
            and isinstance(each.get("seconds"), (int, float))
            for each in state["attempts"]
        )
    )


def error_line(traceback: str) -> str:
    """The first line of a traceback's message, which follows its last frame."""
    lines = traceback.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    said = [x for x in lines[frames[-1] + 1 if frames else 0 :] if x and not x.startswith(" ")]
    return said[0][:500] if said else "an error without a message"


def _closed(attempt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An attempt with an end: that of one that was killed is the last word in its log."""
    if attempt.get("ended"):
        return attempt
    started = datetime.fromisoformat(attempt["started"]).timestamp()
    last = max((file.stat().st_mtime for file in folder.glob("log.txt*")), default=0.0)
    seconds = max(0.0, last - started)
    ended = datetime.fromisoformat(attempt["started"]) + timedelta(seconds=seconds)
    return attempt | {
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "status": "killed",
    }


def _summed(state: dict[str, Any]) -> dict[str, Any]:
    environment = state.get("environment") or {}
    seconds = sum(each["seconds"] for each in state["attempts"])
    devices = max(1, environment.get("devices") or environment.get("processes") or 1)
    return state | {
        "wall_seconds": round(seconds, 3),
        "device_hours": round(seconds * devices / 3600, 6),
    }


def _in_error_file(folder: Path, code: object) -> str:
    """The message that `user_errors` has left, in whichever process; without the error's type."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        line = error_line((folder / "error.txt").read_text())
        return line.partition(": ")[2] or line
    return f"ended with exit code {code}, without a message"


def _iso() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    with _never_failing(folder / FILE):
        write_text(folder / FILE, json.dumps(state, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def _never_failing(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a full disk; the run itself may go on
        logger.warning("%s is not written: %s", os.path.relpath(file), error)
