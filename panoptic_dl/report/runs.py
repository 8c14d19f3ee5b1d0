"""Find the runs below folders: sweeps, single runs, or folders of both.

Runs of one experiment that differ by their seed: mean and standard deviation.

What is known of a run: the fields of its `run.json`, and of what lies beside it.

Read a run's folder.

A resolved config as flat text.

How figures went while a run trained: `metrics.json`, one line of JSON each.
"""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from panoptic_dl.core import run_folder
from panoptic_dl.core.files import (
    MAX_JSON_BYTES,
    encodable,
    read_json_object,
    regular_size,
)
from panoptic_dl.core.run_folder import LOG, METRICS, RESOLVED, RESULTS, RUN, SWEEP, Fields

# Runs with figures to be held against others; the rest only look at something.
MEASURING = ("train", "eval")


@dataclass(frozen=True)
class Attempt:
    """One start of a run: from where to where, in ISO 8601; `ended` is empty while it works."""

    started: str
    ended: str
    seconds: float
    status: str


@dataclass(frozen=True)
class Run:
    """One run folder. What a run did not say is empty, None or NaN."""

    folder: Path
    label: str  # the folder, from the one that was given; for people
    name: str
    mode: str
    row: str  # <dataset>_<task>_<backbone>_<head>
    status: str  # running | finished | stopped (by a signal) | killed (without a word) | failed
    choices: Mapping[str, str] = field(default_factory=dict)  # option of each group
    overrides: Sequence[str] = ()
    command: str = ""
    sweep: str | None = None
    seed: int | None = None
    config_hash: str = ""
    family: str = ""  # the same for runs of one experiment with different seeds
    revision: str = ""  # of git, "" where unknown
    changed: bool = False  # whether the working tree was
    environment: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, float] = field(default_factory=dict)  # iterations, batch_size, lr
    train: Mapping[str, Any] = field(default_factory=dict)  # iterations, batch_size, precision
    published_note: str = ""
    error: str = ""  # its first line
    attempts: Sequence[Attempt] = ()
    wall_seconds: float = math.nan
    device_hours: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)  # percent; NaN: undecided
    results: Mapping[str, Any] = field(default_factory=dict)  # results.json
    settings: Mapping[str, str] = field(default_factory=dict)  # the resolved config, flat
    last_written: str = ""  # when a run that is not finished last wrote its log or figures
    remarks: Sequence[str] = ()  # what of it could not be read

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def when(self) -> str:
        """The last sign of the run in ISO 8601; "" where it left none."""
        return max([self.last_written, *(a.ended or a.started for a in self.attempts)])

    @property
    def moment(self) -> str:
        """The same for people: "2026-01-31 09:05"."""
        return self.when[:16].replace("T", " ")

    @property
    def trial(self) -> str:
        """Why its figures are none, such as a fast_dev_run; "" where they are."""
        if self.results.get("no_result"):
            return str(self.results["no_result"]).partition(",")[0]
        for key, none in (("train.fast_dev_run", "false"), ("train.overfit_batches", "0")):
            value = self.setting(key)
            if value not in (None, none):
                return f"{key}={value}"
        return ""

    @property
    def several_looks(self) -> bool:
        """Whether predictions of scaled or mirrored images were averaged."""
        return self.measured.get("scales", [1.0]) != [1.0] or bool(self.measured.get("flip"))

    @property
    def measured(self) -> Mapping[str, Any]:
        """How the evaluation looked at images."""
        found = self.results.get("measured")
        return found if isinstance(found, dict) else {}

    def setting(self, key: str) -> str | None:
        """A leaf of the config: resolved, else as overridden; None where neither is known."""
        if key in self.settings:
            return self.settings[key]
        for override in reversed(self.overrides):
            name, equals, value = override.lstrip("+").partition("=")
            if equals and name == key:
                return value
        return None


@dataclass(frozen=True)
class Unreadable:
    """A folder that looks like a run's and cannot be read."""

    label: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """A row of a sweep that has not been started."""

    label: str
    sweep: str
    overrides: Sequence[str]


try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]


MOST = 20_000  # leaves; ours have some hundreds


def read_settings(file: Path) -> dict[str, str]:
    """Dotted key of every leaf, and its value as JSON text.

    Raises:
        ValueError: it is no YAML, or not a config.
    """
    too_much = f"{file.name} has more than {MOST:,} values: it is no config of ours"
    if regular_size(file) > MAX_JSON_BYTES:
        raise ValueError(too_much)
    try:
        with file.open(encoding="utf-8") as opened:
            tree = SafeLoader(opened).get_single_data()
        if not isinstance(tree, dict):
            raise ValueError(f"{file.name} holds no config")
        found = list(islice(_leaves(tree, ""), MOST + 1))  # aliases can make a few lines endless
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{file.name} is no whole YAML file ({first})") from error
    if len(found) > MOST:
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
        yield encodable(key), encodable(node if isinstance(node, str) else _json(node))


def _json(node: Any) -> str:
    return json.dumps(node, default=str, ensure_ascii=False)


def read_run(folder: Path, label: str) -> Run:
    """What `run.json` says, with `results.json` and the resolved config where they are.

    Args:
        folder: of the run.
        label: how people call the folder.

    Raises:
        ValueError: `run.json` is damaged or of another format; the message is for people.
        OSError: it cannot be opened.
    """
    data = run_folder.read_run(folder)
    fields = Fields(data, RUN)
    status = fields.text("status")
    seed, git = fields.number("seed"), fields.object("git")
    remarks: list[str] = []
    results = _beside(folder / RESULTS, read_json_object, remarks)
    metrics = dict(fields.object("metrics").numbers())
    if status == "finished" and not metrics and isinstance(results.get("metrics"), dict):
        metrics = dict(Fields(results["metrics"], f"{RESULTS}: metrics").numbers())
    return Run(
        folder=folder,
        label=label,
        name=fields.text("name") or label,
        mode=fields.text("mode", required=True),
        row=fields.text("row", required=True),
        status=status,
        choices={str(k): str(v) for k, v in fields.object("choices").data.items() if v is not None},
        overrides=fields.texts("overrides"),
        command=fields.text("command"),
        sweep=fields.text("sweep") or None,
        seed=int(seed) if math.isfinite(seed) else None,
        config_hash=fields.text("config_hash"),
        # The hash with the seed makes a run stand alone, and so does its label.
        family=fields.text("config_hash_any_seed") or fields.text("config_hash") or label,
        revision=git.text("revision"),
        changed=git.flag("changed"),
        environment=dict(fields.object("environment").data),
        recipe=fields.object("recipe").numbers(),
        train=dict(fields.object("train").data),
        published_note=fields.text("published_note"),
        error=fields.text("error").partition("\n")[0],
        attempts=[
            Attempt(
                attempt.text("started"),
                attempt.text("ended"),
                attempt.number("seconds"),
                attempt.text("status"),
            )
            for attempt in fields.objects("attempts")
        ],
        wall_seconds=fields.number("wall_seconds"),
        device_hours=fields.number("device_hours"),
        metrics=metrics if status == "finished" else {},
        results=results,
        settings=_beside(folder / RESOLVED, read_settings, remarks),
        last_written="" if status == "finished" else _last_written(folder),
        remarks=remarks,
    )


def _last_written(folder: Path) -> str:
    """When a run that has no end yet, or was killed, last wrote a line."""
    files = [file for name in (LOG, METRICS) if (file := folder / name).is_file()]
    newest = max((file.stat().st_mtime for file in files), default=0.0)
    moment = datetime.fromtimestamp(newest, timezone.utc)
    return moment.isoformat(timespec="seconds") if newest else ""


def _beside(file: Path, read: Any, remarks: list[str]) -> Any:
    """What another file of the run says; a damaged one is remarked, a missing one is not."""
    if not file.exists():
        return {}
    try:
        return read(file)
    except (ValueError, OSError) as error:
        remarks.append(str(error) if file.name in str(error) else f"{file.name}: {error}")
        return {}


# What runs leave behind; a folder with one of these and no run.json is a run that cannot be told.
LEFTOVERS = (RESULTS, METRICS)


@dataclass(frozen=True)
class Collected:
    """All that was found: nothing below the folders is left out without being named here."""

    runs: Sequence[Run]
    unreadable: Sequence[Unreadable]
    planned: Sequence[Planned]


def collect(folders: Sequence[Path]) -> Collected:
    """Read every run below `folders`, each once.

    Raises:
        ValueError: a folder does not exist, or none of them holds anything of a run.
    """
    runs: list[Run] = []
    unreadable: list[Unreadable] = []
    planned: list[Planned] = []
    seen: set[str] = set()
    labels: set[str] = set()
    for root in folders:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder: name one that holds runs, such as outputs")
        closed: list[OSError] = []
        for folder, files in _folders(root, seen, closed):
            label = _unused(_label(root, folder, several=len(folders) > 1), labels)
            if SWEEP in files:
                rows = _planned(root, folder, label, several=len(folders) > 1)
                planned += rows if isinstance(rows, list) else []
                unreadable += [rows] if isinstance(rows, Unreadable) else []
            if RUN in files:
                try:
                    runs.append(read_run(folder, label))
                except (ValueError, OSError) as error:
                    unreadable.append(Unreadable(label, _reason(error)))
            elif any(name in files for name in LEFTOVERS):
                unreadable.append(Unreadable(label, _without_record(folder)))
        for refused in closed:
            label = _label(root, Path(str(refused.filename)), several=len(folders) > 1)
            unreadable.append(Unreadable(label, f"its folder: {refused.strerror}"))
    if not (runs or unreadable or planned):
        raise ValueError(
            f"no run.json below {', '.join(map(str, folders))}: name run folders, a sweep's "
            "folder, or one that holds them, such as outputs"
        )
    return Collected(runs, unreadable, planned)


def _without_record(folder: Path) -> str:
    if folder.name == "fast_dev_run":
        return "a trial (train.fast_dev_run=true) is no result"
    return "it has no run.json: an older version of panoptic-dl made it"


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
        # A trial's folder lies inside its run's and says itself that it is none.
        if RUN in files:
            below[:] = [each for each in below if each not in ("pictures", "fast_dev_run")]
        yield Path(name), files


def _label(root: Path, folder: Path, *, several: bool) -> str:
    """The folder as seen from the given one, or from outside it: no path of this machine."""
    below, name = folder.relative_to(root), root.resolve().name
    return encodable(str(below) if not several and below.parts else str(Path(name, below)))


def _unused(label: str, labels: set[str]) -> str:
    """The label, with a number where another folder of that name was found elsewhere."""
    number, wanted = 1, label
    while wanted in labels:
        number += 1
        wanted = f"{label} ({number})"
    labels.add(wanted)
    return wanted


def _planned(
    root: Path, folder: Path, label: str, *, several: bool
) -> "list[Planned] | Unreadable":
    """The rows of a sweep without a run.json."""
    try:
        name, experiments = run_folder.read_sweep(folder)
        return [
            Planned(_label(root, folder / own, several=several), name or label, overrides)
            for own, overrides in experiments.items()
            if not (folder / own / RUN).exists()
        ]
    except (ValueError, OSError) as error:
        return Unreadable(label, _reason(error))


def _reason(error: Exception) -> str:
    """Without a path of this machine: the folder's label stands beside."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file').name}: {error.strerror or error}"
    return str(error)


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds: mean, sample standard deviation (NaN for one run), and how many."""

    mean: float
    deviation: float
    count: int


@dataclass(frozen=True)
class Group:
    """Runs of the same row and config but for the seed, by their seeds."""

    runs: Sequence[Run]
    replaced: Sequence[Run] = ()  # older runs of the same config and seed

    @property
    def first(self) -> Run:
        """One that stands for all: finished, if there is one."""
        return next((run for run in self.runs if run.finished), self.runs[0])

    @property
    def finished(self) -> Sequence[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def label(self) -> str:
        """What a line of a table is called: the run's name, or that of all seeds."""
        return self.first.label

    def figure(self, name: str) -> Spread | None:
        """Over the finished runs; None where one of them has no such figure."""
        values = [run.metrics.get(name) for run in self.finished]
        known = [value for value in values if value is not None]
        return spread(known) if known and len(known) == len(values) else None

    def figures(self) -> list[str]:
        """The names of all figures, in the order in which runs have them."""
        return list(dict.fromkeys(name for run in self.finished for name in run.metrics))


def spread(values: Sequence[float]) -> Spread:
    """Of percentages; NaN as soon as one is."""
    if not all(map(math.isfinite, values)):
        return Spread(math.nan, math.nan, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group what trains or evaluates; runs of other modes have no figures to be grouped.

    Of several runs with the same config and seed the newest finished one stays, else the newest;
    a random seed (None) is never the same as another.
    """
    families: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        if run.mode in MEASURING:
            families.setdefault((run.row, run.mode, run.family), []).append(run)
    return [_group(members) for members in families.values()]


def _group(members: Sequence[Run]) -> Group:
    kept: list[Run] = []
    replaced: list[Run] = []
    for run in sorted(members, key=lambda run: (run.finished, run.when), reverse=True):
        again = run.seed is not None and any(other.seed == run.seed for other in kept)
        (replaced if again else kept).append(run)
    kept.sort(key=lambda run: (run.seed is None, run.seed or 0, run.label))
    return Group(kept, replaced)


MAX_JSON_BYTES_VALUE = 1e30  # what is beyond has no place in a chart

Points = Sequence[tuple[int, float]]  # iterations done, and a figure


@dataclass(frozen=True)
class Curves:
    """Figures by name; those of steps and those of evaluations on the way."""

    steps: Mapping[str, Points] = field(default_factory=dict)
    evaluations: Mapping[str, Points] = field(default_factory=dict)
    damaged: int = 0  # lines that are none, apart from a last one that was cut off

    def typical(self, name: str) -> float:
        """The median of a figure of steps after the first tenth; NaN where there is none."""
        points = self.steps.get(name, ())
        values = [value for _, value in points[len(points) // 10 :]]
        return statistics.median(values) if values else math.nan

    def highest(self, name: str) -> float:
        """The largest of a figure of steps; NaN where there is none."""
        return max((value for _, value in self.steps.get(name, ())), default=math.nan)


def read_curves(file: Path) -> Curves:
    """Read a file that may still be written; without one there are no curves.

    Of an iteration that comes twice, as after an attempt that was ended, the later line counts.
    """
    if not file.is_file():
        return Curves()
    steps: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[int, Mapping[str, Any]] = {}
    damaged = 0
    for line in _lines(file):
        if line is None:
            damaged += 1
        else:
            (steps if "total_loss" in line else evaluations)[line["iteration"] + 1] = line
    return Curves(_by_name(steps), _by_name(evaluations), damaged)


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
                whole = isinstance(line, dict) and _is_count(line.get("iteration"))
            except (ValueError, RecursionError):
                whole = False
                if not raw.endswith(b"\n"):
                    return
            yield line if whole else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < MAX_JSON_BYTES_VALUE


def _by_name(lines: Mapping[int, Mapping[str, Any]]) -> dict[str, Points]:
    found: dict[str, list[tuple[int, float]]] = {}
    for iteration, line in sorted(lines.items()):
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name != "iteration" and number and abs(value) < MAX_JSON_BYTES_VALUE:  # also not NaN
                found.setdefault(encodable(name), []).append((iteration, float(value)))
    return dict(found)
