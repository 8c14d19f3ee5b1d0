"""Tables of groups of runs: the published tables with verdicts, and all others without.

The rows of the published tables come from the experiments that reproduce them,
`conf/experiment/*.yaml`. A verdict says whether a run has reproduced its row.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from panoptic_dl.core.files import ROOT
from panoptic_dl.core.settings import EXPERIMENT_PARTS, experiment_name
from panoptic_dl.evaluation.metrics import PUBLISHED
from panoptic_dl.report.runs import Group, Run, Spread, group_runs
from panoptic_dl.report.text import metric_name, short_names

CONF = ROOT / "conf"
TEXTS = yaml.safe_load((Path(__file__).parent / "templates" / "tables.yaml").read_text("utf-8"))
NAMES = TEXTS["names"]
VAL_IMAGES = {"cityscapes": 500, "coco": 5000}  # that published metrics were measured on
COSTS = ("params_M", "GMACs", "ms_per_image", "peak_MiB")  # of mode=benchmark; less is better
TOLERANCE, WIDE = 0.5, 1.5  # percentage points
JUDGED = ("PQ", "mIoU")
MIN_TRAINING = 0.5  # share of the published images; with fewer a run is a trial
STATED = (
    f"PQ and mIoU within ±{TOLERANCE} of the published metric count as reproduced, at the "
    "published batch, iterations and fp32 or tf32; where one of these differs, within "
    f"±{WIDE}. A row is below when one of the two is, and better when its main metric (PQ, or mIoU "
    "of a semantic row) is above. Differences are rounded to one decimal first, as published "
    "metrics are."
)

# Settings under these change a network, its data or its optimization, except those that only say
# where things are and how they are worked through.
PARTS = ("backbone", "head", "decoder", "pixels", "dataset", "optimizer", "schedule", "task")
HARMLESS = ("dataset.root", "dataset.cache", "dataset.max_bad_samples", "schedule.max_iter")
LEARNING_RATE = "optimizer.lr"  # goes with the batch

MAX_NAMED = 3  # differences in the name of a row
MAX_VALUE = 32  # letters of one
COPIES = ("task.", "mode.")  # hold resolved copies of other keys of a config


@dataclass(frozen=True)
class _PublishedRow:
    """A row of a published table, and the training that its metrics belong to."""

    row: str  # the experiment, see `Run.row`
    table: str  # the title of its table
    title: str  # of its line: the backbone
    main: str  # the metric that decides the verdict
    metrics: Mapping[str, float]  # percent
    iterations: int
    batch_size: int
    num_images: int | None  # of the validation split; None: not known
    recipe: str  # that the published model was trained with
    choices: Mapping[str, str]  # its options, by group
    other_recipes: tuple[str, ...] = ()  # compared with the same metrics, with a note


def published_rows() -> list[_PublishedRow]:
    """All rows with published metrics, in the order of their tables; ValueError names a file."""
    rows = []
    for file in sorted((CONF / "experiment").glob("*.yaml")):
        experiment = _read(file)
        if experiment.get("published") and experiment.get("published_row"):
            rows.append(_published_row(file, experiment))
    # Xception-65 comes first in each published table, Cityscapes' panoptic ones before COCO's.
    return sorted(
        rows, key=lambda row: (row.main != "PQ", row.table.lower(), row.title != "Xception-65")
    )


def _published_row(file: Path, experiment: Mapping[str, Any]) -> _PublishedRow:
    chosen = _chosen(experiment)
    dataset, task, backbone, head = (chosen[part] for part in EXPERIMENT_PARTS)
    recipes, usual = CONF / "recipe", f"{dataset}_{task}"
    recipe = _read(recipes / f"{usual}.yaml")
    record = recipe["recipe_record"]
    # Where a dataset's recipe was corrected later, the published metrics are of the old one.
    old = f"{usual}_old"
    has_old = (recipes / f"{old}.yaml").is_file() and "published_note" not in experiment
    return _PublishedRow(
        row=experiment_name(chosen),
        table=f"{NAMES.get(dataset, dataset)}, {task}, {head}",
        title=NAMES.get(backbone, backbone),
        main="PQ" if task == "panoptic" else "mIoU",
        metrics={name: float(value) for name, value in experiment["published"].items()},
        iterations=int(record["iterations"]),
        batch_size=int(record["batch_size"]),
        num_images=VAL_IMAGES.get(dataset),
        recipe=old if has_old else usual,
        choices=_read(CONF / "config.yaml")["recipe_record"]["choices"] | _chosen(recipe),
        other_recipes=(usual,) if has_old else (),
    )


def _chosen(tree: Mapping[str, Any]) -> dict[str, str]:
    """The options by group in the defaults of a file."""
    return {
        key.removeprefix("override ").strip("/ "): str(option)
        for default in tree.get("defaults", ())
        if isinstance(default, dict)
        for key, option in default.items()
    }


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error


@dataclass(frozen=True)
class _Verdict:
    """Whether a row is reproduced: a word, and why."""

    word: str
    reason: str = ""

    @property
    def text(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word

    @property
    def kind(self) -> str:
        """One word for colors: better, reproduced, below, open, failed."""
        return self.word if self.word in ("better", "reproduced", "below", "failed") else "open"


def _judge(group: Group, row: _PublishedRow) -> _Verdict:
    """The verdict on runs of the experiment of a published row."""
    run = group.first
    if not run.finished:
        open_ended = run.status in ("running", "killed")
        return _Verdict(run.status, f"last line {run.moment}" if open_ended else "")
    refused = _refusal(run, row)
    if refused:
        return _Verdict("no verdict", refused)
    tolerance = WIDE if _training_differences(run, row) else TOLERANCE
    own = {name: found.mean for name in row.metrics if (found := group.metric(name)) is not None}
    return _compare(own, row.metrics, row.main, tolerance)


def _compare(
    own: Mapping[str, float], published: Mapping[str, float], main: str, tolerance: float
) -> _Verdict:
    """Compare metrics with published ones, all in percent."""
    if not math.isfinite(own.get(main, math.nan)):
        return _Verdict("no verdict", f"{main} is n/a")
    differences = {
        name: round(own[name] - published[name], 1)
        for name in JUDGED
        if name in published and math.isfinite(own.get(name, math.nan))
    }
    # Differences of one decimal are exact tenths but for the last bits of floating point.
    low = [name for name, value in differences.items() if value < -tolerance - 1e-6]
    if low:
        return _Verdict("below", "" if low == [main] else " and ".join(low))
    return _Verdict("better" if differences[main] > tolerance + 1e-6 else "reproduced")


def _refusal(run: Run, row: _PublishedRow) -> str:
    """Why this run is not compared with the row; "" where it is."""
    if run.files:
        return f"predictions from files: {run.files}"
    if run.trial:
        return f"trial: {run.trial}"
    recipe = run.choices.get("recipe", row.recipe)
    if recipe not in (row.recipe, *row.other_recipes):
        return f"other recipe: {recipe}"
    images = run.results.get("num_images")
    if None not in (images, row.num_images) and images != row.num_images:
        return f"measured on {images} images, not on all {row.num_images:,}"
    if run.measured.get("scales", [1.0]) != [1.0] or run.measured.get("flip"):
        return "several looks at each image, published metrics are of one"
    changed = [name for name in run.overridden if _changes_parts(name)]
    changed += [name for name, its in row.choices.items() if run.choices.get(name, its) != its]
    if changed:
        return f"other settings: {', '.join(changed)}"
    numbers = [run.train.get(name) for name in ("iterations", "batch_size")]
    seen = math.prod(x if isinstance(x, (int, float)) else 0 for x in numbers)
    share = seen / (row.iterations * row.batch_size)
    if run.mode == "train" and share < MIN_TRAINING:
        return f"trial: {100 * share:.2g} % of the training"
    return ""


def _training_differences(run: Run, row: _PublishedRow) -> Sequence[str]:
    """The differences to the published training that make the tolerance wide."""
    if run.mode == "eval":
        return ["weights of unknown training"]
    wanted = {"iterations": row.iterations, "batch_size": row.batch_size, "precision": "tf32"}
    found = []
    for name, value in wanted.items():
        own = run.train.get(name) or "unknown"
        if own != value and (own, value) != ("fp32", "tf32"):
            own, of = (f"{x:,}" if isinstance(x, int) else x for x in (own, value))
            found.append(f"{metric_name(name)} {own}, published {of}")
    if "precision" in run.measured:
        found.append(f"evaluated in {run.measured['precision']}")
    if LEARNING_RATE in run.overridden:
        found.append(f"{LEARNING_RATE} {run.setting(LEARNING_RATE)}")
    return found


def _changes_parts(key: str) -> bool:
    harmless = any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
    return "." in key and key.split(".")[0] in PARTS and not harmless and key != LEARNING_RATE


@dataclass(frozen=True)
class Cell:
    """A metric of a line in percent, or one of `COSTS`; None: there is none, NaN: undecided."""

    own: Spread | None = None
    published: float | None = None

    @property
    def difference(self) -> float | None:
        """Own minus published; None where one of them is missing."""
        if self.own is None or self.published is None:
            return None
        return self.own.mean - self.published


@dataclass(frozen=True)
class Line:
    """A row of a table: a published row with a group of runs or none, or a group alone."""

    title: str
    row: str  # the experiment, see `Run.row`
    cells: Mapping[str, Cell]
    verdict: _Verdict | None = None  # None where nothing is published
    notes: Sequence[str] = ()
    group: Group | None = None  # None where it was not run
    detail: str = ""  # what tells it from others of the same title: "lr=0.01"

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.title, self.detail)))


@dataclass(frozen=True)
class Table:
    """Lines with the same columns."""

    title: str
    lines: Sequence[Line]
    published: bool = False
    wanted: Sequence[str] = ()  # columns, or beginnings of their names; (): the usual ones

    @property
    def all_columns(self) -> list[str]:
        """What its lines have: metrics of the published tables, costs, all other metrics."""
        there = dict.fromkeys(name for line in self.lines for name in line.cells)
        usual = (*PUBLISHED, *COSTS)
        return [n for n in usual if n in there] + [n for n in there if n not in usual]

    @property
    def columns(self) -> list[str]:
        """Those that are shown: the wanted ones, else published metrics and costs."""
        there = self.all_columns
        if not self.wanted:
            return [name for name in there if name in (*PUBLISHED, *COSTS)]
        found = (n for x in self.wanted for n in ([x] if x in there else there) if n.startswith(x))
        return list(dict.fromkeys(found))

    def is_best(self, line: Line, name: str) -> bool:
        """Whether no line has a better value in a column, and one a worse; no published row."""
        values = [x.cells[name].own for x in self.lines if name in x.cells]
        means = [own.mean for own in values if own is not None and math.isfinite(own.mean)]
        own = line.cells[name].own if name in line.cells else None
        if self.published or own is None or len(set(means)) < 2:
            return False
        return own.mean == (min if name in COSTS else max)(means)

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of the lines."""
        return [run for line in self.lines if line.group for run in line.group.runs]


def build_tables(
    runs: Sequence[Run],
    benchmarks: Sequence[Mapping[str, Any]] = (),
    *,
    all_published: bool = False,
    columns: Sequence[str] = (),
) -> list[Table]:
    """One for each dataset and task of one's own, then the published tables.

    `benchmarks`, see `panoptic_dl.report.runs.Collected`, give the `COSTS` of rows; `columns` are
    names or their beginnings, such as PQ, params; `all_published` has rows that were not run, too.

    Raises ValueError: an experiment with published metrics cannot be read; a column is unknown.
    """
    known = dict.fromkeys([*PUBLISHED, *COSTS, *(name for run in runs for name in run.metrics)])
    for column in columns:
        if not any(name.startswith(column) for name in known):
            raise ValueError(f"--columns: {column} is no column; choose among {', '.join(known)}")
    groups, rows = group_runs(runs), published_rows()
    published: dict[str, list[Line]] = {}
    for row in rows:
        own = [group for group in groups if group.first.row == row.row]
        cells = {name: Cell(None, value) for name, value in row.metrics.items()}
        lines = [_published_line(row, group) for group in own]
        if all_published and not lines:
            lines = [Line(row.title, row.row, cells, _Verdict("not run"))]
        if lines:
            published.setdefault(row.table, []).extend(lines)
    others: dict[str, list[Line]] = {}
    for group in groups:
        if group.first.row not in {row.row for row in rows}:
            chosen, title = group.first.choices, group.first.row
            if chosen.get("dataset") and chosen.get("task"):
                title = f"{NAMES.get(chosen['dataset'], chosen['dataset'])}, {chosen['task']}"
            title += ", predictions from files" if group.first.files else ""
            others.setdefault(title, []).append(_other_line(group, benchmarks))
    found = [(title, lines, False) for title, lines in others.items()]
    found += [(title, lines, True) for title, lines in published.items()]
    return [Table(title, _tell_apart(lines), known, columns) for title, lines, known in found]


def differing_settings(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys with different values, and the values; "" where a config has no such key."""
    rows = {}
    for key in dict.fromkeys(key for each in settings for key in each):
        values = tuple(each.get(key, "") for each in settings)
        leaf = key.rpartition(".")[2]
        if len(set(values)) > 1 and (key == "seed" or leaf not in TEXTS["not_compared"]):
            rows[key] = (values, leaf)
    originals = {row for key, row in rows.items() if not key.startswith(COPIES)}
    return [
        (key, row[0])
        for key, row in rows.items()
        if not (key.startswith(COPIES) and row in originals)
    ]


def _tell_apart(lines: Sequence[Line]) -> list[Line]:
    """Give lines of the same title as "detail" what differs between their runs."""
    told = list(lines)
    for title, count in Counter(line.title for line in lines).items():
        same = {i: x.group.first for i, x in enumerate(lines) if x.group and x.title == title}
        if count > 1:
            # What tells most rows apart comes first: not all of it may be named.
            rows = _chosen_differently(list(same.values()))
            rows.sort(key=lambda row: -len(set(row[1])))
            keys = short_names([key for key, _ in rows], ".")
            words = [[f"{keys[key]}={x[i]}" for key, x in rows if x[i]] for i in range(len(same))]
            details = [", ".join(each[:MAX_NAMED]) for each in words]
            labels = short_names([run.label for run in same.values()], "/")
            for (index, run), detail in zip(same.items(), details, strict=True):
                more = f"run {labels[run.label]}" if details.count(detail) > 1 else ""
                told[index] = replace(lines[index], detail=", ".join(filter(None, (detail, more))))
    return told


def _chosen_differently(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Options and overrides that differ, and short values; of files that do, their settings.

    "" stands for null, and for settings of training of a run that did not train.
    """
    trained = [run.mode == "train" for run in runs]
    keys = dict.fromkeys(key for run in runs for key in (*run.choices, *run.overridden))
    chosen = [{x: run.choices.get(x) or run.setting(x) or "" for x in keys} for run in runs]
    named: list[tuple[str, list[str]]] = []
    for settings in (chosen, [dict(run.settings) for run in runs]):
        for key, values in differing_settings(settings):
            used = trained if key.split(".")[0] in TEXTS["of_training"] else [True] * len(runs)
            shown = [x if use and x != "null" else "" for x, use in zip(values, used, strict=True)]
            is_told = len({x for x, use in zip(shown, used, strict=True) if use}) > 1
            if is_told and key not in TEXTS["not_named"]:
                named.append((key, shown))
        if named:
            break
    return [(key, [Path(x).name[:MAX_VALUE] for x in values]) for key, values in named]


def _published_line(row: _PublishedRow, group: Group) -> Line:
    cells = {name: Cell(group.metric(name), value) for name, value in row.metrics.items()}
    run = group.first
    notes: list[str] = []
    if run.finished and not _refusal(run, row):
        notes += _training_differences(run, row)
    if row.other_recipes and run.choices.get("recipe") == row.recipe:
        notes.append("old recipe, that of the published metrics")
    elif row.other_recipes:
        note = run.published_note or f"published metrics are of recipe={row.recipe}"
        notes.append(f"corrected recipe: {note}")
    notes += _notes(group)
    return Line(row.title, row.row, cells, _judge(group, row), notes, group)


def find_benchmark(run: Run, benchmarks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last benchmark of a run's network."""
    own = (b for b in reversed(benchmarks) if (b["row"], b["network"]) == (run.row, run.network))
    return next(own, None)


def _costs(benchmark: Mapping[str, Any] | None) -> dict[str, Cell]:
    if benchmark is None:
        return {}
    rate, device, host = (benchmark[x] for x in ("images_per_s", "device_MiB", "host_MiB"))
    memory = device if math.isfinite(device) else host
    numbers = (benchmark["parameters"] / 1e6, benchmark["GMACs"], 1000 / rate, memory)
    return {n: Cell(Spread.over([x])) for n, x in zip(COSTS, numbers, strict=True)}


def _other_line(group: Group, benchmarks: Sequence[Mapping[str, Any]]) -> Line:
    run = group.first
    parts = [run.choices[part] for part in ("backbone", "head") if part in run.choices]
    if "timm" in parts:  # any of a thousand
        parts[0] = run.setting("backbone.name") or "timm"
    title = ", ".join(NAMES.get(x, x) for x in parts) or run.row
    notes = [] if run.finished else [run.status]
    notes += [f"trial: {run.trial}"] if run.trial else []
    cells = {name: Cell(group.metric(name)) for name in group.metric_names()}
    cells |= _costs(find_benchmark(run, benchmarks))
    return Line(title, run.row, cells, notes=notes + _notes(group), group=group)


def _notes(group: Group) -> list[str]:
    """What to know of a group's metrics."""
    notes = []
    if group.first.mode != "train":
        notes.append(f"mode={group.first.mode}")
    if len(group.runs) > 1:
        seeds = ", ".join("random" if run.seed is None else str(run.seed) for run in group.finished)
        notes.append(f"seeds {seeds}" if seeds else f"{len(group.runs)} seeds")
        open_ones = [f"seed {run.seed} {run.status}" for run in group.runs if not run.finished]
        notes += open_ones if group.finished else []
    for run in group.replaced:
        notes.append(f"an older run of the same config and seed is left out: {run.label}")
    undecided = [
        metric_name(name)
        for name in group.metric_names()
        if name in PUBLISHED and (found := group.metric(name)) and math.isnan(found.mean)
    ]
    if undecided:
        notes.append(f"n/a: {', '.join(undecided)}")
    return notes
