"""The runs below folders: what is known of each, their curves, and their groups over seeds."""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from panoptic_dl.core import run_folder
from panoptic_dl.core.files import (
    MAX_JSON_BYTES,
    encodable,
    read_json_object,
    regular_size,
)
from panoptic_dl.core.run_folder import LOG, METRICS, RESOLVED, RESULTS, RUN, SWEEP, Fields

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

MEASURING = ("train", "eval")  # modes whose runs have metrics to be compared
MAX_SETTINGS = 20_000  # leaves of a config; ours have some hundreds
MAX_VALUE = 1e30  # what is beyond has no place in a chart

Points = Sequence[tuple[int, float]]  # iterations done, and a value


@dataclass(frozen=True)
class Run:
    """One run folder. What is not known of it is empty, None or NaN."""

    folder: Path
    label: str  # the folder, seen from the one that was given
    name: str
    mode: str
    row: str  # the experiment: <dataset>_<task>_<backbone>_<head>
    status: str  # running | finished | stopped (by a signal) | killed | failed
    choices: Mapping[str, str]  # option of each group
    overrides: Sequence[str]
    command: str
    seed: int | None
    family: str  # the same for runs of one experiment that differ by their seed
    revision: str  # of git
    changed: bool  # whether the working tree was
    environment: Mapping[str, Any]
    train: Mapping[str, Any]  # iterations, batch_size, precision
    published_note: str
    wall_seconds: float
    device_hours: float
    metrics: Mapping[str, float]  # percent; NaN: undecided
    attempts: Sequence[str] = ()  # when each ended, or began where it has no end, in ISO 8601
    config_hash: str = ""
    error: str = ""  # its first line
    results: Mapping[str, Any] = field(default_factory=dict)  # results.json
    settings: Mapping[str, str] = field(default_factory=dict)  # the resolved config, flat
    last_written: str = ""  # when a run that is not finished last wrote its log or metrics
    remarks: Sequence[str] = ()  # what of it could not be read

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def when(self) -> str:
        """The last sign of the run in ISO 8601; "" where it left none."""
        return max([self.last_written, *self.attempts])

    @property
    def moment(self) -> str:
        """`when`, readable: "2026-01-31 09:05"."""
        return self.when[:16].replace("T", " ")

    @property
    def times(self) -> str:
        """ "4 x " before the name of a device of which there were several."""
        devices = self.environment.get("devices")
        return f"{devices} x " if isinstance(devices, int) and devices > 1 else ""

    @property
    def trial(self) -> str:
        """Why its metrics are no result, such as a fast_dev_run; "" where they are."""
        if self.results.get("no_result"):
            return str(self.results["no_result"]).partition(",")[0]
        for key, none in (("train.fast_dev_run", "false"), ("train.overfit_batches", "0")):
            value = self.setting(key)
            if value not in (None, none):
                return f"{key}={value}"
        return ""

    @property
    def measured(self) -> Mapping[str, Any]:
        """How images were evaluated."""
        found = self.results.get("measured")
        return found if isinstance(found, dict) else {}

    @property
    def overridden(self) -> dict[str, str]:
        """Values by key of the overrides; of a key that comes twice, the last one counts."""
        parts = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in parts}

    def setting(self, key: str) -> str | None:
        """A leaf of the config: resolved, else as overridden; None where neither is known."""
        return self.settings.get(key) or self.overridden.get(key) or None


def run_from_record(fields: Fields, **others: Any) -> Run:
    """A run from an object with the keys of run.json; `others` are the fields that it lacks.

    Raises:
        ValueError: a value is of the wrong kind; the message says which.
    """
    seed, choices = fields.number("seed"), fields.object("choices").data
    known: dict[str, Any] = {
        "mode": fields.text("mode", required=True),
        "row": fields.text("row", required=True),
        "choices": {str(key): str(value) for key, value in choices.items() if value is not None},
        "overrides": fields.texts("overrides"),
        "seed": int(seed) if math.isfinite(seed) else None,
        "metrics": fields.object("metrics").numbers(),
    }
    known |= {key: fields.text(key) for key in ("status", "command", "published_note")}
    known |= {key: dict(fields.object(key).data) for key in ("environment", "train")}
    known |= {key: fields.number(key) for key in ("wall_seconds", "device_hours")}
    return Run(**known | others)


def read_run(folder: Path, label: str) -> Run:
    """Read `run.json`, and `results.json` and the resolved config where they are.

    Raises:
        ValueError: `run.json` is damaged or of another format; the message says which.
        OSError: it cannot be opened.
    """
    fields = Fields(run_folder.read_run(folder), RUN)
    git, config_hash = fields.object("git"), fields.text("config_hash")
    remarks: list[str] = []
    results = _read_optional(folder / RESULTS, read_json_object, remarks)
    finished = fields.text("status") == "finished"
    metrics = fields.object("metrics").numbers() if finished else {}
    if finished and not metrics and isinstance(results.get("metrics"), dict):
        metrics = Fields(results["metrics"], f"{RESULTS}: metrics").numbers()
    return run_from_record(
        fields,
        folder=folder,
        label=label,
        name=fields.text("name") or label,
        # The hash with the seed makes a run a group of its own, and so does its label.
        family=fields.text("config_hash_any_seed") or config_hash or label,
        revision=git.text("revision"),
        changed=git.flag("changed"),
        metrics=metrics,
        attempts=[
            attempt.text("ended") or attempt.text("started")
            for attempt in fields.objects("attempts")
        ],
        config_hash=config_hash,
        error=fields.text("error").partition("\n")[0],
        results=results,
        settings=_read_optional(folder / RESOLVED, _read_settings, remarks),
        last_written="" if finished else _last_written(folder),
        remarks=remarks,
    )


def _last_written(folder: Path) -> str:
    """When a run that has no end yet, or was killed, last wrote a line."""
    files = [file for name in (LOG, METRICS) if (file := folder / name).is_file()]
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    moment = datetime.fromtimestamp(newest, timezone.utc)
    return moment.isoformat(timespec="seconds") if newest else ""


def _read_optional(file: Path, read: Any, remarks: list[str]) -> Any:
    """Another file of the run; {} where it is missing, or damaged, which is remarked."""
    if not file.exists():
        return {}
    try:
        return read(file)
    except (ValueError, OSError) as error:
        remarks.append(str(error) if file.name in str(error) else f"{file.name}: {error}")
        return {}


def _read_settings(file: Path) -> dict[str, str]:
    """Flatten a resolved config: dotted key of each leaf, and its value as JSON text.

    Raises:
        ValueError: it is no YAML, or not a config.
    """
    too_much = f"{file.name} has more than {MAX_SETTINGS:,} values: it is no config of ours"
    if regular_size(file) > MAX_JSON_BYTES:
        raise ValueError(too_much)
    try:
        with file.open(encoding="utf-8") as opened:
            tree = SafeLoader(opened).get_single_data()
        if not isinstance(tree, dict):
            raise ValueError(f"{file.name} holds no config")
        # A few lines with aliases can be endless.
        found = list(islice(_leaves(tree, ""), MAX_SETTINGS + 1))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{file.name} is no whole YAML file ({first})") from error
    if len(found) > MAX_SETTINGS:
        raise ValueError(too_much)
    return dict(found)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        for index, item in enumerate(node):
            yield from _leaves(item, f"{key}.{index}")
    else:
        text = node if isinstance(node, str) else json.dumps(node, default=str, ensure_ascii=False)
        yield encodable(key), encodable(text)


def _read_benchmark(file: Path, row: str) -> dict[str, Any]:
    """What mode=benchmark measured of an experiment, as `Collected` has it."""
    fields = Fields(read_json_object(file), file.name)
    sides = fields.texts("image_size")
    if len(sides) != 2:
        raise ValueError(f"{file.name}: image_size must be [height, width], not {sides}")
    return {
        "row": row,
        "machine": fields.text("machine"),
        "size": f"{sides[0]} x {sides[1]}",
        "images_per_s": fields.object("stages").object("total").number("images_per_s"),
        "device_MiB": fields.number("peak_device_MiB"),
        "host_MiB": fields.number("peak_host_MiB"),
    }


@dataclass(frozen=True)
class Collected:
    """All that was found below the folders.

    Attributes:
        unreadable: label and reason.
        planned: label and overrides of a sweep's rows that were not started.
        benchmarks: of finished runs of mode=benchmark: "row" (the experiment), "machine", "size"
            (of images, in pixels), "images_per_s", peaks "device_MiB" (NaN on the CPU) and
            "host_MiB".
    """

    runs: Sequence[Run]
    unreadable: Sequence[tuple[str, str]] = ()
    planned: Sequence[tuple[str, Sequence[str]]] = ()
    benchmarks: Sequence[Mapping[str, Any]] = ()


def collect(folders: Sequence[Path]) -> Collected:
    """Read every run below `folders`, each once; what cannot be read is listed with the reason.

    Raises:
        ValueError: a folder does not exist, or none of them holds anything of a run.
    """
    runs: list[Run] = []
    unreadable: list[tuple[str, str]] = []
    planned: list[tuple[str, Sequence[str]]] = []
    benchmarks: list[dict[str, Any]] = []
    seen: set[str] = set()
    labels: set[str] = set()
    several = len(folders) > 1

    for root in folders:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder: name one that holds runs, such as outputs")
        closed: list[OSError] = []
        for folder, files in _folders(root, seen, closed):
            wanted = label = _label(root, folder, several)
            number = 1
            while label in labels:  # that of another folder, found elsewhere
                number += 1
                label = f"{wanted} ({number})"
            labels.add(label)
            try:
                if SWEEP in files:
                    _, experiments = run_folder.read_sweep(folder)
                    planned += [
                        (_label(root, folder / name, several), overrides)
                        for name, overrides in experiments.items()
                        if not (folder / name / RUN).exists()
                    ]
            except (ValueError, OSError) as error:
                unreadable.append((label, _reason(error)))
            try:
                if RUN in files:
                    run = read_run(folder, label)
                    runs.append(run)
                    if run.mode == "benchmark" and run.finished:
                        benchmarks.append(_read_benchmark(folder / "benchmark.json", run.row))
                elif RESULTS in files or METRICS in files:
                    reason = "it has no run.json: an older version of panoptic-dl made it"
                    if folder.name == "fast_dev_run":
                        reason = "a trial (train.fast_dev_run=true) is no result"
                    unreadable.append((label, reason))
            except (ValueError, OSError) as error:
                unreadable.append((label, _reason(error)))
        for refused in closed:
            label = _label(root, Path(str(refused.filename)), several)
            unreadable.append((label, f"its folder: {refused.strerror}"))
    if not (runs or unreadable or planned):
        raise ValueError(
            f"no run.json below {', '.join(map(str, folders))}: name run folders, a sweep's "
            "folder, or one that holds them, such as outputs"
        )
    return Collected(runs, unreadable, planned, benchmarks)


def _folders(
    root: Path, seen: set[str], closed: list[OSError]
) -> Iterator[tuple[Path, Sequence[str]]]:
    """Folders below `root` with the names of their files, in order; each folder once.

    Those that may not be opened go into `closed`.
    """
    for name, below, files in os.walk(root, followlinks=True, onerror=closed.append):
        real = os.path.realpath(name)
        if real in seen:  # given twice, or a link that leads back
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(each for each in below if not each.startswith("."))
        # The folder of a trial lies inside its run's, which is reported as a trial.
        if RUN in files:
            below[:] = [each for each in below if each not in ("pictures", "fast_dev_run")]
        yield Path(name), files


def _label(root: Path, folder: Path, several: bool) -> str:
    """The folder as seen from the given one, or from outside it: no path of this machine."""
    below, name = folder.relative_to(root), root.resolve().name
    return encodable(str(below) if not several and below.parts else str(Path(name, below)))


def _reason(error: Exception) -> str:
    """The message without a path of this machine; the folder's label precedes it."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file').name}: {error.strerror or error}"
    return str(error)


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; the deviation of one run is NaN."""

    mean: float
    deviation: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "Spread":
        """Of percentages; NaN as soon as one is."""
        if not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan)
        deviation = statistics.stdev(values) if len(values) > 1 else math.nan
        return cls(statistics.fmean(values), deviation)


@dataclass(frozen=True)
class Group:
    """Runs with the same config but for the seed, in the order of their seeds."""

    runs: Sequence[Run]
    replaced: Sequence[Run] = ()  # older runs of the same config and seed

    @property
    def first(self) -> Run:
        """A run that represents all: finished, if there is one."""
        return next((run for run in self.runs if run.finished), self.runs[0])

    @property
    def finished(self) -> Sequence[Run]:
        return [run for run in self.runs if run.finished]

    def metric(self, name: str) -> Spread | None:
        """Over the finished runs; None where one of them has no such metric."""
        values = [run.metrics[name] for run in self.finished if name in run.metrics]
        return Spread.over(values) if values and len(values) == len(self.finished) else None

    def metric_names(self) -> list[str]:
        """The names of all metrics, in the order in which runs have them."""
        return list(dict.fromkeys(name for run in self.finished for name in run.metrics))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group the runs of the modes `MEASURING`, which have metrics.

    Of several runs with the same config and seed the newest finished one stays, else the newest;
    a random seed (None) is never the same as another.
    """
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.mode in MEASURING:
            families.setdefault((run.row, run.mode, run.family), []).append(run)
    groups = []
    for members in families.values():
        kept: list[Run] = []
        replaced: list[Run] = []
        for run in sorted(members, key=lambda run: (run.finished, run.when), reverse=True):
            again = run.seed is not None and any(other.seed == run.seed for other in kept)
            (replaced if again else kept).append(run)
        kept.sort(key=lambda run: (run.seed is None, run.seed or 0, run.label))
        groups.append(Group(kept, replaced))
    return groups


@dataclass(frozen=True)
class Curves:
    """Metrics of training steps, and of evaluations during training, by name."""

    steps: Mapping[str, Points] = field(default_factory=dict)
    evaluations: Mapping[str, Points] = field(default_factory=dict)
    damaged: int = 0  # lines, apart from a last one that was cut off

    def typical(self, name: str) -> float:
        """The median over steps after the first tenth; NaN where there is none."""
        points = self.steps.get(name, ())
        values = [value for _, value in points[len(points) // 10 :]]
        return statistics.median(values) if values else math.nan

    def highest(self, name: str) -> float:
        """The largest over steps; NaN where there is none."""
        return max((value for _, value in self.steps.get(name, ())), default=math.nan)


def read_curves(file: Path) -> Curves:
    """Read a file that may still be written; without one there are no curves.

    Of an iteration that comes twice, as after an attempt that was ended, the later line counts.
    """
    if not file.is_file():
        return Curves()
    lines = list(_lines(file))
    steps, evaluations = (
        {x["iteration"] + 1: x for x in lines if x is not None and ("total_loss" in x) == training}
        for training in (True, False)
    )
    return Curves(_by_name(steps), _by_name(evaluations), lines.count(None))


def thinned(points: Points, most: int) -> Points:
    """At most about `most` points, each the mean of its neighbours at their mean iteration."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (round(statistics.fmean(x for x, _ in part)), statistics.fmean(y for _, y in part))
        for part in parts
    ]


def _lines(file: Path) -> Iterator[Mapping[str, Any] | None]:
    """Lines with an iteration; None for one that has none. A cut last line is not there yet."""
    with file.open("rb") as opened:
        for raw in opened:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                if not raw.endswith(b"\n"):
                    return
                line = None
            iteration = line.get("iteration") if isinstance(line, dict) else None
            yield line if isinstance(iteration, int) and 0 <= iteration < MAX_VALUE else None


def _by_name(lines: Mapping[int, Mapping[str, Any]]) -> dict[str, Points]:
    found: dict[str, list[tuple[int, float]]] = {}
    for iteration, line in sorted(lines.items()):
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name != "iteration" and number and abs(value) < MAX_VALUE:  # also not NaN
                found.setdefault(encodable(name), []).append((iteration, float(value)))
    return dict(found)
