"""A run's folder: its file names, `run.json`, its checkpoints, its config and its first error.

`run.json` holds what a run is, how it stands, and how long it has taken in all its attempts. A
sweep's folder holds `sweep.json`, the list of its experiments, and their folders.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any

import yaml

from panoptic_dl.core.classes import CLASSES
from panoptic_dl.core.environment import git
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import (
    LOCK,
    RUN_LOCK,
    acquire_lock,
    atomic_write,
    is_locked,
    local_path,
    near_names,
    printable,
    read_json_object,
    read_text,
    release_lock,
    sha256_of,
    write_text,
)
from panoptic_dl.core.settings import describe_type, has_type

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

logger = logging.getLogger(__name__)

RUN = "run.json"
CONFIG = ".hydra/config.yaml"  # as composed
RESOLVED = ".hydra/resolved.yaml"  # with all interpolations resolved
LOG = "log.txt"
METRICS = "metrics.json"  # one line of JSON per logged iteration or evaluation
RESULTS = "results.json"  # of an evaluation
FINAL, BEST, AVERAGE = "model_final.pth", "model_best.pth", "model_ema.pth"
NEWEST = "last_checkpoint"  # a text file with the newest checkpoint's name
MANIFEST = "checkpoints.json"  # what is known of each checkpoint
ERROR = "error.txt"  # the traceback of what ended the last attempt
FAILED = "failed.txt"  # in a row of a sweep that ended without a word of its own: its error
REFUSED = "refused.txt"  # in a sweep's folder: finished rows that its last command was refused
SWEEP = "sweep.json"
MLFLOW_ARTIFACTS = "mlflow_artifacts"  # beside a database of MLflow: copies of runs' files
# A model that is shared: a folder of its weights, the config to build it from, and classes.json.
SHARED = "panoptic_dl.json"  # the SHA-256 of these files
SHARED_CONFIG, SHARED_WEIGHTS = "config.yaml", "model.safetensors"

FORMAT = 1  # of run.json
SHARED_FORMAT = 1  # of panoptic_dl.json
TIME = "%Y-%m-%d_%H-%M-%S.%f"  # name of a folder with the config of an earlier attempt
STATUSES = ("running", "finished", "stopped", "failed")


class ExitCode(IntEnum):
    """Exit codes of a run that did not finish, for job scripts: docs/reference/exit_codes.md."""

    ERROR = 1  # one message has what is wrong and what to do
    SAVED = 75  # a signal stopped it with all saved: `resume=true` goes on (EX_TEMPFAIL)
    DIVERGED = 76  # a loss was not finite; the last checkpoint is from before
    INTERRUPTED = 130  # Ctrl-C where nothing could be saved, or a second one


STOPPED = (ExitCode.SAVED, ExitCode.INTERRUPTED)  # somebody asked the run to stop


class Ended(SystemExit):
    """This process ends after its message, of which `line` is the first line."""

    def __init__(self, code: int, line: str | None) -> None:
        super().__init__(code)
        self.line = line


class Requeued(SystemExit):
    """This process ends, all is saved, and its job is in the queue again."""


class RunState:
    """A start in a run's folder: the owner of its `run.json` and of the config in `.hydra`.

    Attributes:
        waits: the folder holds a run, and stays as it is until this start is accepted, in the main
            process of the run, which the object is sent to.
        remarks: what the log shall say about the attempt before.
    """

    def __init__(self, run_dir: str, *, writes: bool) -> None:
        """`writes`: whether this process writes `run.json`; only one of a run does."""
        self.folder, self.writes = Path(run_dir), writes
        self.waits = _holds_run(self.folder)
        self.remarks: list[str] = []
        self._record: dict[str, Any] = {}  # run.json as it will be
        self._texts: dict[str, str] = {}
        self._place = (self.folder / CONFIG).parent  # of the texts
        self._started = time.time()
        self._lock: int | None = None
        self._made_lock = False

    def begin(self, facts: Mapping[str, Any], texts: Mapping[str, str] | None = None) -> None:
        """Take the folder for an attempt; one that was killed before is closed.

        The record of a training stays where another mode works. `facts` are those of
        `panoptic_dl.config.run_identity.identity`, `texts` files of `.hydra` by name.

        Raises ValueError: another process works here; OSError: the config cannot be written.
        """
        if not (self.writes or texts):
            return
        self._made_lock = not (self.folder / RUN_LOCK).exists()
        try:
            self._lock = acquire_lock(self.folder / RUN_LOCK)
        except BlockingIOError:
            self.waits = True
            raise ValueError(
                f"{self.folder} is in use by another process: wait for that run, end it, or "
                "name another run_dir"
            ) from None
        except OSError as error:
            logger.warning("%s is not written: %s", self.folder / RUN_LOCK, error)
        self.waits = _holds_run(self.folder)
        self._texts = dict(texts or {})
        before = read_state(self.folder)
        # Without a record that can be read, checkpoints tell of a training.
        trained = before.get("mode") == "train" if before else (self.folder / NEWEST).exists()
        if trained and facts.get("mode") != "train":
            self.writes = False
        if self.writes:
            self._record = self._new_record(facts, before)
        if not self.waits:
            self.accept()

    def _new_record(self, facts: Mapping[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        attempts = [_closed(each, self.folder) for each in before.get("attempts", [])]
        attempts.append({"started": _now(), "ended": None, "seconds": 0.0, "status": "running"})
        commit = None
        with contextlib.suppress(ValueError):  # git.txt says why
            revision, changes = (text.strip() for text in git("rev-parse HEAD", "status --short"))
            commit = {"revision": revision, "changed": bool(changes)}
            if (earlier := (before.get("git") or {}).get("revision", revision)) != revision:
                other = f"The attempt before ran another revision of the code, {earlier}"
                self.remarks.append(f"{other}; this one runs {revision}")
        return {
            "format": FORMAT,
            **facts,
            "git": commit,
            "environment": before.get("environment"),  # until the processes note theirs
            "started_from": before.get("started_from"),  # a file of weights, by name and SHA-256
            "status": "running",
            "error": None,
            "attempts": attempts,
            "metrics": before.get("metrics"),
        }

    def write_resolved(self, text: str) -> None:
        """Keep the resolved config of this attempt, in YAML."""
        if self._texts:
            self._texts[Path(RESOLVED).name] = text
            if not self.waits:
                self._write_texts()

    def accept(self) -> None:
        """Let this start be the run's, for its checks have passed; OSError if it cannot be kept."""
        if self._texts:
            if not self.writes and (self.folder / CONFIG).exists():
                self._place /= f"{datetime.now():{TIME}}"
            self._write_texts()
        self.waits = False
        if self._record:
            for name in (ERROR, FAILED):  # of an attempt before this one
                with _never_failing(self.folder / name):
                    (self.folder / name).unlink(missing_ok=True)
            _write(self.folder, self._record)

    def _write_texts(self) -> None:
        """Write all, or none; another config, of an attempt before, is kept by its time."""
        config, old = self._place / Path(CONFIG).name, None
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            if config.is_file() and config.read_bytes() != self._texts[config.name].encode():
                old = self._place / f"{datetime.fromtimestamp(config.stat().st_mtime):{TIME}}"
                old.mkdir(exist_ok=True)
                for file in self._place.glob("*.yaml"):
                    shutil.copy2(file, old)
            with contextlib.ExitStack() as files:  # which renames them when all are written
                for name, text in self._texts.items():
                    temporary = files.enter_context(atomic_write(self._place / name))
                    temporary.write_text(text, encoding="utf-8")
        except OSError as error:
            if old is not None:
                shutil.rmtree(old, ignore_errors=True)
            problem = error.strerror or str(error)
            raise OSError(error.errno, f"cannot be written: {problem}", str(config)) from error

    def note(self, **facts: Any) -> None:
        """Add what only the main process knows: its environment, its metrics."""
        if self.writes and not self.waits:
            note(self.folder, **facts)

    def record(self) -> dict[str, Any]:
        """`run.json` if this attempt is under way, accepted here or in a process of the run."""
        state = read_state(self.folder) if self._record else {}
        last, own = ((each.get("attempts") or [{}])[-1] for each in (state, self._record))
        return state if last and not last["ended"] and last["started"] == own["started"] else {}

    def end(self, status: str, error: str | None = None) -> None:
        """End the attempt, if it was accepted: finished | stopped | failed, its error's line."""
        if state := self.record():
            state["attempts"][-1] |= {
                "ended": _now(),
                "seconds": round(time.time() - self._started, 3),
                "status": status,
            }
            _write(self.folder, state | {"status": status, "error": error})
            if status == "finished":  # what others left that ended in this folder meanwhile
                with _never_failing(self.folder / ERROR):
                    (self.folder / ERROR).unlink(missing_ok=True)
        refused = self._made_lock and self.waits and not state
        release_lock(self._lock, remove=self.folder / RUN_LOCK if refused else None)
        self._lock = None


def _holds_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RUN, NEWEST))


def note(folder: Path, **facts: Any) -> None:
    """Add to the `run.json` of a run that is under way and was accepted."""
    state = read_state(folder)
    if state.get("status") in ("running", "killed"):  # killed: on a disk without locks
        _write(folder, state | {"status": "running"} | facts)


def read_run(folder: Path) -> dict[str, Any]:
    """Read `run.json`. One without an end or a process is "killed", or failed as its sweep noted.

    Raises ValueError, for people: it is damaged or of another format; OSError.
    """
    data = read_json_object(folder / RUN)
    if data.get("format") != FORMAT:
        raise ValueError(
            f"{RUN} has format {data.get('format')!r}, and this version reads {FORMAT}: "
            "report with the version that made the run"
        )
    status = data.get("status")
    if status not in STATUSES:
        raise ValueError(f"{RUN}: status {status!r} is none of {', '.join(STATUSES)}")
    if status == "running" and not is_running(folder):
        data["status"] = "killed"
    if data["status"] not in ("finished", "running") and (why := failure(folder)):
        data |= {"status": "failed", "error": why}
    return data


def is_running(folder: Path) -> bool:
    """Whether a run is under way in a folder, on this machine or on one that shares its disk."""
    return is_locked(folder / RUN_LOCK) or is_locked(folder / LOCK)


def read_state(folder: Path) -> dict[str, Any]:
    """`read_run`, or an empty dict where there is no `run.json`; a damaged one is logged."""
    try:
        return read_run(folder)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is damaged and not used: %s", folder / RUN, error)
        return {}


def _closed(attempt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An attempt with an end; one that was killed ended with the last line of its log."""
    if attempt.get("ended"):
        return attempt
    started = datetime.fromisoformat(attempt["started"])
    last = max((file.stat().st_mtime for file in folder.glob(f"{LOG}*")), default=0.0)
    seconds = max(0.0, last - started.timestamp())
    return attempt | {
        "ended": (started + timedelta(seconds=seconds)).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "status": "killed",
    }


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _write(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `run.json`, with the time of all attempts."""
    environment = state.get("environment") or {}
    seconds = sum(each["seconds"] for each in state["attempts"])
    devices = max(1, environment.get("devices") or environment.get("processes") or 1)
    content = {
        **state,
        "wall_seconds": round(seconds, 3),
        "device_hours": round(seconds * devices / 3600, 6),
    }
    with _never_failing(folder / RUN):
        write_text(folder / RUN, json.dumps(content, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def _never_failing(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a full disk; the run itself may go on
        logger.warning("%s is not written: %s", os.path.relpath(file), error)


def as_json(value: Any) -> Any:
    """Copy nested results for `json.dump`: plain numbers, None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)  # floats and NumPy's scalars
    return number if math.isfinite(number) else None


def error_line(traceback: str) -> str:
    """The first line of a traceback's message, which follows its last frame."""
    lines = traceback.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    rest = lines[frames[-1] + 1 if frames else 0 :]
    message = [line for line in rest if line and not line.startswith(" ")]
    return message[0][:500] if message else "an error without a message"


def first_error_line(folder: Path) -> str | None:
    """The first line of the error in a run's `error.txt`, without the error's type."""
    try:
        line = error_line(read_text(folder / ERROR))
    except OSError:
        return None
    return line.partition(": ")[2] or line


def how_to_continue(folder: Path) -> str:
    """What to add to the command that trained in a folder, so that it goes on there."""
    if read_state(folder).get("sweep"):
        return f"sweep_dir={folder.parent}"
    return f"run_dir={folder} resume=true"


def failure(folder: Path) -> str | None:
    """What ended the last attempt of a sweep's experiment, from its `failed.txt`."""
    try:
        return read_text(folder / FAILED).strip() or None
    except OSError:
        return None


def write_sweep(folder: Path, experiments: Mapping[str, Sequence[str]]) -> None:
    """Write `sweep.json`: the overrides of each experiment, by the name of its folder."""
    rows = [{"folder": name, "overrides": list(each)} for name, each in experiments.items()]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "name": folder.absolute().name, "rows": rows}
    write_text(folder / SWEEP, json.dumps(content, indent=1) + "\n")


def read_sweep(folder: Path) -> tuple[str, dict[str, Sequence[str]]]:
    """The name of a sweep, and what `write_sweep` has written; ValueError if it is damaged."""
    plan = Fields(read_json_object(folder / SWEEP), SWEEP)
    rows = plan.objects("rows")
    found = {row.text("folder", required=True): row.texts("overrides") for row in rows}
    for name in found:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{SWEEP}: {printable(name)} is no folder of the sweep")
    return plan.text("name"), found


class Fields:
    """The keys of an object of a JSON file, each of its kind; an error names file and key.

    Keys that are missing or null give "", NaN, false or an empty collection.
    """

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.data, self.where = data, where

    def text(self, key: str, *, required: bool = False) -> str:
        value = self._get(key, str)
        if required and not value:
            raise ValueError(f"{self.where}: {key} is missing")
        return value or ""

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def number(self, key: str) -> float:
        value = self._get(key, float)
        try:
            return math.nan if value is None else float(value)
        except OverflowError:  # a number of hundreds of digits
            return math.inf

    def object(self, key: str) -> "Fields":
        return Fields(self._get(key, dict) or {}, f"{self.where}: {key}")

    def texts(self, key: str) -> Sequence[str]:
        return [str(value) for value in self._get(key, list) or ()]

    def objects(self, key: str) -> Sequence["Fields"]:
        found = enumerate(self._get(key, list[dict]) or ())
        return [Fields(item, f"{self.where}: {key}[{i}]") for i, item in found]

    def numbers(self) -> Mapping[str, float]:
        """All keys, which must be numbers or null."""
        return {str(key): self.number(key) for key in self.data}

    def _get(self, key: str, kind: type) -> Any:
        value = self.data.get(key)
        if value is not None and not has_type(value, kind):
            expected = "text" if kind is str else describe_type(kind)
            raise ValueError(f"{self.where}: {key} must be {expected}, not {str(value)[:80]!r}")
        return value


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of the last attempt, see `RunState.write_resolved`; {} without.

    Raises ValueError: it is damaged; OSError.
    """
    if not (folder / RESOLVED).exists():
        return {}
    try:
        config = SafeLoader(read_text(folder / RESOLVED)).get_single_data()
        if not isinstance(config, dict):
            raise ValueError("it holds no config")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{Path(RESOLVED).name} is no whole YAML file ({first})") from error
    return config


def config_file(folder: Path) -> Path:
    """The config of a run's folder, or of a shared model's, whose files are checked."""
    if not (folder / SHARED).is_file():
        return folder / CONFIG
    _shared_file(folder, CLASSES)
    return _shared_file(folder, SHARED_CONFIG)


def _shared_file(folder: Path, name: str) -> Path:
    """A file of a shared model; WeightsError unless it is the one that was shared."""
    again = "export or download the model again"
    try:
        manifest = Fields(read_json_object(folder / SHARED), SHARED)
        if manifest.number("format") != SHARED_FORMAT:
            raise ValueError(f"its format is not {SHARED_FORMAT}, which this version reads")
        sha256 = manifest.object("files").text(name, required=True)
    except ValueError as error:
        raise WeightsError(f"{folder / SHARED} is damaged ({error}); {again}") from error
    if not (folder / name).is_file():
        raise WeightsError(f"{folder / name} is missing; {again}")
    if sha256_of(folder / name) != sha256:
        raise WeightsError(
            f"{folder / name} is not the file that was shared: {SHARED} has another hash; {again}"
        )
    return folder / name


def image_format_of(folder: Path) -> str | None:
    """Channel order of the images of a run, RGB or BGR; None where its config does not tell."""
    try:
        order = read_config(folder)["dataset"]["image_format"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return order if order in ("RGB", "BGR") else None


def is_exported(weights: str | Path | None) -> bool:
    """Whether `weights=` names an ONNX file of mode=export."""
    return weights is not None and Path(weights).suffix.lower() == ".onnx"


def find_weights(path: str | Path) -> Path:
    """The weights file `path`, or a run folder's checkpoint; WeightsError lists what is there.

    Of a shared model the file is checked, by whichever of both it is named.
    """
    path = local_path(path, "weights")
    if path.is_file():
        shared = path.name == SHARED_WEIGHTS and (path.parent / SHARED).is_file()
        return _shared_file(path.parent, path.name) if shared else path
    if not path.is_dir():
        near = near_names(path.parent, path.name)
        raise WeightsError(f"weights={path}: there is no such file or folder{near}")
    chosen = find_checkpoint(path)
    done = f", iteration {step:.0f}" if (step := _iteration(chosen)) >= 0 else ""
    logger.info("weights=%s is a folder: taking %s%s", path, printable(chosen.name), done)
    return chosen


def _iteration(checkpoint: Path) -> float:
    """Of a file in a run's folder; NaN where the manifest does not know it."""
    try:
        manifest = Fields(read_json_object(checkpoint.with_name(MANIFEST)), MANIFEST)
        return manifest.object("files").object(checkpoint.name).number("iteration")
    except (OSError, ValueError):
        return math.nan


def find_checkpoint(folder: Path, name: str | None = None) -> Path:
    """A run folder's checkpoint: `name`, or else the final one, or else the newest.

    A final one that is older than the newest is of a run that was made longer: it is not taken. Of
    a shared model it is its weights. WeightsError where there is none.
    """
    there = (
        ", ".join(sorted(printable(p.name) for p in folder.glob("*.pth"))) or "no .pth file at all"
    )
    if name is not None:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsError(f"{folder} has no checkpoint {name}; it has {there}")
        return folder / name
    if (folder / SHARED).is_file():
        return _shared_file(folder, SHARED_WEIGHTS)
    tag, final = folder / NEWEST, folder / FINAL
    newest = tag.read_text(errors="replace").strip() if tag.is_file() else ""
    # The tag is a name in the folder; anything else, such as ../x, is damage.
    is_there = newest and Path(newest).name == newest and (folder / newest).is_file()
    if final.is_file() and not (is_there and _iteration(folder / newest) > _iteration(final)):
        return final
    if is_there:
        return folder / newest
    raise WeightsError(
        f"weights={folder}: a run folder has {FINAL}, or {NEWEST} names its newest checkpoint; "
        f"here is {there}. Name one: weights={folder}/NAME.pth"
    )
