"""`run.json`: what a run is, how it stands, and how long it has taken in all its attempts.

What the exit code of `run.py` says; docs/long_runs.md lists them for job scripts.

A run folder of ours in the place of a weights file: which checkpoint is meant.

Values of a JSON file, each of the kind that it should be; errors name the file's key.

What the records in a run's folder say of it: run.json, and its config.
"""

import contextlib
import json
import logging
import math
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.utils import comm

from panoptic_dl.core.environment import git_revision, measured_on
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import RUN_LOCK, folder_lock, printable, write_text


class ExitCode(IntEnum):
    """Codes of a run that did not finish; 0 is one that did."""

    ERROR = 1  # one message said what is wrong and how to cure it
    SAVED = 75  # a signal stopped it with all saved: `resume=true` goes on (EX_TEMPFAIL)
    DIVERGED = 76  # a loss was not finite; the last checkpoint is from before
    INTERRUPTED = 130  # Ctrl-C where nothing could be saved, or a second one


class Requeued(SystemExit):
    """This process ends, all is saved, and its job is in the queue again."""


class Fields:
    """Reads the keys of one object; a key that is missing or null gives what stands for nothing."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def text(self, key: str, *, required: bool = False) -> str:
        value = self._get(key, str, "text")
        if required and not value:
            raise ValueError(f"{self.where}: {key} is missing")
        return "" if value is None else str(value)

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool, "true or false"))

    def number(self, key: str) -> float:
        """NaN where there is none."""
        value = self._get(key, (int, float), "a number")
        if isinstance(value, bool):
            raise ValueError(f"{self.where}: {key} must be a number, not {value!r}")
        try:
            return math.nan if value is None else float(value)
        except OverflowError:  # a number of hundreds of digits
            return math.inf

    def object(self, key: str) -> "Fields":
        value = self._get(key, dict, "an object")
        return Fields(value or {}, f"{self.where}: {key}")

    def texts(self, key: str) -> Sequence[str]:
        return [str(value) for value in self._get(key, list, "a list") or ()]

    def objects(self, key: str) -> Sequence["Fields"]:
        found = self._get(key, list, "a list") or []
        if not all(isinstance(item, dict) for item in found):
            raise ValueError(f"{self.where}: {key} must be a list of objects")
        return [Fields(item, f"{self.where}: {key}[{i}]") for i, item in enumerate(found)]

    def numbers(self) -> Mapping[str, float]:
        """All of this object, which holds nothing but numbers, or null for NaN."""
        return {str(key): self.number(key) for key in self.data}

    def _get(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        value = self.data.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{self.where}: {key} must be {expected}, not {str(value)[:80]!r}")
        return value


def as_json(value: Any) -> Any:
    """Copy nested results for `json.dump`: plain numbers, None for figures that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)  # floats and NumPy's scalars
    return number if math.isfinite(number) else None


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
            facts: see `panoptic_dl.config.run_identity.identity`.
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


FINAL = "model_final.pth"
AVERAGE = "model_ema.pth"
NEWEST = "last_checkpoint"  # a text file with the newest checkpoint's name
MANIFEST = "checkpoints.json"  # what is known of each checkpoint


def find_weights(path: str | Path) -> Path:
    """The file to read: `path` itself, or the checkpoint of the run folder that `path` is.

    Of a folder: `model_final.pth`, else what `last_checkpoint` names. Which one is logged.

    Raises:
        WeightsError: there is no such file or folder, or the folder has neither; the message lists
            the checkpoints that are there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"weights={path}: there is no such file or folder")
    chosen = find_checkpoint(path)
    logger.info("weights=%s is a run folder: taking %s", path, printable(chosen.name))
    return chosen


def find_checkpoint(folder: Path, name: str | None = None) -> Path:
    """A run folder's checkpoint: `name`, or else the final one, or else the newest.

    Raises:
        WeightsError: it is not there.
    """
    there = (
        ", ".join(sorted(printable(p.name) for p in folder.glob("*.pth"))) or "no .pth file at all"
    )
    if name is not None:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsError(f"{folder} has no checkpoint {name}; it has {there}")
        return folder / name
    if (folder / FINAL).is_file():
        return folder / FINAL
    tag = folder / NEWEST
    newest = tag.read_text(errors="replace").strip() if tag.is_file() else ""
    # The tag is a name in the folder; anything else, such as ../x, is damage.
    if newest and Path(newest).name == newest and (folder / newest).is_file():
        return folder / newest
    raise WeightsError(
        f"weights={folder}: a run folder has {FINAL}, or {NEWEST} names its newest checkpoint; "
        f"here is {there}. Name one: weights={folder}/NAME.pth"
    )


CONFIGS = (".hydra/resolved.yaml", ".hydra/config.yaml")  # the first that is there


def config(folder: Path) -> dict[str, Any]:
    """The run's config, resolved where the folder has it so; {} if there is none."""
    for name in CONFIGS:
        file = folder / name
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:
            logger.warning("Loggers are told nothing of %s, which is damaged: %s", file, error)
            return {}
        return found if isinstance(found, dict) else {}
    return {}


def chosen(about: Mapping[str, Any]) -> dict[str, str]:
    """Options of the groups that tell runs apart, as run.json has them; without empty ones."""
    groups = ("dataset", "task", "backbone", "head", "recipe", "experiment", "hardware", "sweep")
    choices = about.get("choices") or {}
    return {group: str(choices[group]) for group in groups if choices.get(group)}
