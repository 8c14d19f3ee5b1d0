"""The runs below folders: what is known of each, their curves, and their groups over seeds."""

import json
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from panoptic_dl.core import run_folder
from panoptic_dl.core.files import parse_json, read_json_object, visible
from panoptic_dl.core.run_folder import (
    LOG,
    METRICS,
    MLFLOW_ARTIFACTS,
    RESOLVED,
    RESULTS,
    RUN,
    SWEEP,
    Fields,
)

MEASURING = ("train", "eval")  # modes whose runs have metrics to be compared
MOMENT = "%Y-%m-%d %H:%M %Z"
NETWORK = ("backbone.", "head.", "decoder.", "experiment=", "sweep=")  # overrides that begin so
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
    config_hash: str
    family: str  # the same for runs of one experiment that differ by their seed
    revision: str  # of git
    changed: bool  # whether the working tree was
    environment: Mapping[str, Any]
    train: Mapping[str, Any]  # iterations, batch_size, precision
    published_note: str
    wall_seconds: float
    device_hours: float
    metrics: Mapping[str, float]  # percent; NaN: undecided
    error: str  # its first line
    when: str  # its last sign, in ISO 8601, in UTC
    attempts: int = 1
    results: Mapping[str, Any] = field(default_factory=dict)  # results.json
    settings: Mapping[str, str] = field(default_factory=dict)  # the resolved config, flat
    remarks: Sequence[str] = ()  # what of it could not be read

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def moment(self) -> str:
        """`when`, readable, in the time zone of this machine: "2026-01-31 09:05 UTC"."""
        with suppress(ValueError, OverflowError):  # no date, or one of the year 1
            return f"{datetime.fromisoformat(self.when).astimezone():{MOMENT}}"
        return self.when[:16]

    @property
    def device(self) -> str:
        """The name of the device, after "4 x " where there were several."""
        devices, name = self.environment.get("devices"), self.environment.get("device")
        times = f"{devices} x " if isinstance(devices, int) and devices > 1 else ""
        return f"{times}{name}" if name else ""

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
    def files(self) -> str:
        """The end of the folder of predictions that were measured; "" of a network."""
        folder = self.measured.get("predictions") or self.setting("predictions")
        if self.mode != "eval" or folder in (None, "null"):
            return ""
        return "/".join(Path(str(folder)).parts[-2:]).lstrip("/")

    @property
    def overridden(self) -> dict[str, str]:
        """Values by key of the overrides; of a key that comes twice, the last one counts."""
        parts = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in parts}

    @property
    def network(self) -> frozenset[str]:
        """The overrides that decide which network of its row it is."""
        return frozenset(x for x in self.overrides if x.lstrip("+").startswith(NETWORK))

    def setting(self, key: str) -> str | None:
        """A leaf of the config: resolved, else as overridden; None where neither is known."""
        return self.settings.get(key) or self.overridden.get(key) or None


def run_from_record(fields: Fields, **others: Any) -> Run:
    """A run from an object with the keys of run.json, and those of its `git`.

    Predictions from files are no row of an experiment: the network that made them is not known.
    `others` are fields that the object lacks, or has otherwise. ValueError names a wrong value.
    """
    seed, choices = fields.number("seed"), fields.object("choices").data
    texts = ("name", "status", "command", "config_hash", "family", "revision", "published_note")
    known: dict[str, Any] = {
        "mode": fields.text("mode", required=True),
        "row": fields.text("row", required=True),
        **{key: fields.text(key) for key in texts},
        "choices": {str(key): str(value) for key, value in choices.items() if value is not None},
        "overrides": fields.texts("overrides"),
        "seed": int(seed) if math.isfinite(seed) else None,
        "changed": fields.flag("changed"),
        **{key: dict(fields.object(key).data) for key in ("environment", "train")},
        **{key: fields.number(key) for key in ("wall_seconds", "device_hours")},
        "metrics": fields.object("metrics").numbers(),
        "error": fields.text("error").partition("\n")[0],
    }
    run = Run(**known | others)
    if not run.files:
        return run
    kept = {k: v for k, v in run.choices.items() if k not in ("backbone", "head", "recipe")}
    return replace(run, row=f"files of {run.files}", choices=kept)


def read_run(folder: Path, label: str) -> Run:
    """Read `run.json` (ValueError if it is damaged), `results.json`, the resolved config."""
    data = run_folder.read_run(folder)
    fields = Fields({**Fields(data, RUN).object("git").data, **data}, RUN)
    remarks: list[str] = []
    results = _read_optional(folder / RESULTS, read_json_object, remarks)
    finished = fields.text("status") == "finished"
    metrics = fields.object("metrics").numbers() if finished else {}
    if finished and not metrics and isinstance(results.get("metrics"), dict):
        metrics = Fields(results["metrics"], f"{RESULTS}: metrics").numbers()
    attempts = fields.objects("attempts")
    signs = [_in_utc(each.text("ended") or each.text("started")) for each in attempts]
    for file in (folder / LOG, folder / METRICS):  # of one without an end, or that was killed
        if not finished and file.is_file():
            moment = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc)
            signs.append(moment.isoformat(timespec="seconds"))
    return run_from_record(
        fields,
        folder=folder,
        label=label,
        # The hash with the seed makes a run a group of its own, and so does its label.
        family=fields.text("config_hash_any_seed") or fields.text("config_hash") or label,
        metrics=metrics,
        when=max(signs, default=""),
        attempts=len(attempts),
        results=results,
        settings=_read_optional(folder / RESOLVED, lambda _: _read_settings(folder), remarks),
        remarks=remarks,
    )


def _in_utc(when: str) -> str:
    """A date and time as others can be compared with as text; what is none, as it is."""
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(when).astimezone(timezone.utc).isoformat(timespec="seconds")
    return when


def _read_optional(file: Path, read: Any, remarks: list[str]) -> Any:
    """Another file of the run; {} where it is missing, or damaged, which is remarked."""
    try:
        return read(file)
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        remarks.append(str(error) if file.name in str(error) else f"{file.name}: {error}")
        return {}


def _read_settings(folder: Path) -> dict[str, str]:
    """The resolved config, flat: dotted key of each leaf, and its value as JSON text."""
    # A few lines with aliases can be endless.
    return dict(islice(_leaves(run_folder.read_config(folder), ""), MAX_SETTINGS))


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        for index, item in enumerate(node):
            yield from _leaves(item, f"{key}.{index}")
    else:
        text = node if isinstance(node, str) else json.dumps(node, default=str, ensure_ascii=False)
        yield visible(key), visible(text)


def _read_benchmark(file: Path, run: Run) -> dict[str, Any]:
    """What mode=benchmark measured of an experiment; peaks in MiB, `device_MiB` NaN on the CPU."""
    fields = Fields(read_json_object(file), file.name)
    return {
        "row": run.row,
        "network": run.network,
        "parameters": fields.number("parameters"),
        "GMACs": fields.number("GMACs"),
        "machine": fields.text("machine"),
        "size": " x ".join(fields.texts("image_size")),
        "images_per_s": fields.object("stages").object("total").number("images_per_s"),
        "device_MiB": fields.number("peak_device_MiB"),
        "host_MiB": fields.number("peak_host_MiB"),
    }


@dataclass
class Collected:
    """All that was found below the folders, by labels; for `benchmarks` see `_read_benchmark`."""

    runs: list[Run] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # and why
    planned: list[tuple[str, Sequence[str]]] = field(default_factory=list)  # not started
    failed: list[tuple[str, str]] = field(default_factory=list)  # without run.json
    benchmarks: list[dict[str, Any]] = field(default_factory=list)

    @contextmanager
    def listing_unreadable(self, label: str) -> Iterator[None]:
        """List what cannot be read, without paths of this machine."""
        try:
            yield
        except ValueError as error:
            self.unreadable.append((label, str(error)))
        except OSError as error:
            file = Path(error.filename or "a file").name
            self.unreadable.append((label, f"{file}: {error.strerror or error}"))


def collect(folders: Sequence[Path]) -> Collected:
    """Read every run below `folders`, each once; what cannot be read is listed with the reason.

    ValueError if a folder does not exist, or none of them holds anything of a run.
    """
    found = Collected()
    seen: set[str] = set()
    labels: set[str] = set()
    several = len(folders) > 1
    order: dict[Path, int] = {}  # of the rows of a sweep, as it was spelled
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
            if SWEEP in files:
                with found.listing_unreadable(label):
                    for name, overrides in run_folder.read_sweep(folder)[1].items():
                        order[folder / name] = len(order)
                        row = _label(root, folder / name, several)
                        if (folder / name / RUN).exists():
                            continue
                        if why := run_folder.failure(folder / name):
                            found.failed.append((row, why))
                        else:
                            found.planned.append((row, overrides))
            if RUN in files:
                with found.listing_unreadable(label):
                    run = read_run(folder, label)
                    found.runs.append(run)
                    if run.mode == "benchmark" and run.finished:
                        file = folder / "benchmark.json"
                        found.benchmarks.append(_read_benchmark(file, run))
            elif RESULTS in files or METRICS in files:
                reason = "it has no run.json: an older version of panoptic-dl made it"
                if folder.name == "fast_dev_run":
                    reason = "a trial (train.fast_dev_run=true) is no result"
                found.unreadable.append((label, reason))
        for refused in closed:
            label = _label(root, Path(str(refused.filename)), several)
            found.unreadable.append((label, f"its folder: {refused.strerror}"))
    if not (found.runs or found.unreadable or found.planned or found.failed):
        raise ValueError(
            f"no run.json below {', '.join(map(str, folders))}: name run folders, a sweep's "
            "folder, or one that holds them, such as outputs"
        )
    found.runs.sort(key=lambda run: (order.get(run.folder, -1), run.label))
    return found


def _folders(
    root: Path, seen: set[str], closed: list[OSError]
) -> Iterator[tuple[Path, Sequence[str]]]:
    """Folders below `root`, each once, and their files; errors of others go into `closed`."""
    for name, below, files in os.walk(root, followlinks=True, onerror=closed.append):
        real = os.path.realpath(name)
        if real in seen:  # given twice, or a link that leads back
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(x for x in below if not x.startswith(".") and x != MLFLOW_ARTIFACTS)
        # The folder of a trial lies inside its run's, which is reported as a trial.
        if RUN in files:
            below[:] = [each for each in below if each not in ("pictures", "fast_dev_run")]
        yield Path(name), files


def _label(root: Path, folder: Path, several: bool) -> str:
    """The folder as seen from the given one, or from outside it: no path of this machine."""
    below, name = folder.relative_to(root), root.resolve().name
    return visible(str(below) if not several and below.parts else str(Path(name, below)))


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

    Of an iteration that comes twice, as after an attempt that was ended, the later value counts.
    """
    steps: dict[str, dict[int, float]] = {}
    evaluations: dict[str, dict[int, float]] = {}
    damaged = 0
    for raw in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        try:
            line = parse_json(raw, file.name)
        except ValueError:
            if not raw.endswith(b"\n"):  # being written
                break
            line = None
        iteration = line.get("iteration") if isinstance(line, dict) else None
        if not (isinstance(iteration, int) and 0 <= iteration < MAX_VALUE):
            damaged += 1
            continue
        curves = steps if "total_loss" in line else evaluations
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name != "iteration" and number and abs(value) < MAX_VALUE:  # also not NaN
                curves.setdefault(visible(name), {})[iteration + 1] = float(value)
    in_order = [{n: sorted(x.items()) for n, x in each.items()} for each in (steps, evaluations)]
    return Curves(in_order[0], in_order[1], damaged)


def thinned(points: Points, most: int) -> Points:
    """At most about `most` points, each the mean of its neighbors at their mean iteration."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (round(statistics.fmean(x for x, _ in part)), statistics.fmean(y for _, y in part))
        for part in parts
    ]
