"""Tables of groups of runs: the published ones with verdicts, all others without.

The published rows, from the experiments that reproduce them: `conf/experiment/*.yaml`.

Names as papers print them.

Whether a run has reproduced a published row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from panoptic_dl.evaluation.metrics import PUBLISHED
from panoptic_dl.report.runs import Group, Run, Spread

CONF = Path(__file__).parents[2] / "conf"
VAL_IMAGES = {"cityscapes": 500, "coco": 5000}  # that published figures were measured on
GROUPS = ("dataset", "task", "backbone", "head")


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table, and the training that its figures belong to."""

    experiment: str
    dataset: str
    task: str
    backbone: str
    head: str
    figures: Mapping[str, float]  # percent
    iterations: int
    batch_size: int
    num_images: int | None  # of the validation split; None: not known
    recipe: str  # whose figures they are, of several
    other_recipes: tuple[str, ...] = ()  # that are held against the same figures, with a note

    @property
    def row(self) -> str:
        return "_".join(getattr(self, group) for group in GROUPS)

    @property
    def table(self) -> tuple[str, str, str]:
        """Which of the published tables has it."""
        return self.dataset, self.task, self.head

    @property
    def main(self) -> str:
        """The figure that a verdict is about."""
        return "PQ" if self.task == "panoptic" else "mIoU"


def published_rows(conf: Path = CONF) -> list[PublishedRow]:
    """All rows with published figures, in the order of the published tables.

    Raises:
        ValueError: an experiment cannot be read; the message names the file.
    """
    rows = []
    for file in sorted((conf / "experiment").glob("*.yaml")):
        experiment = _read(file)
        if experiment.get("published") and experiment.get("published_row"):
            rows.append(_row(file, experiment, conf / "recipe"))
    # Xception-65 stands first in each published table, Cityscapes' panoptic ones before COCO's.
    return sorted(
        rows,
        key=lambda row: (row.task != "panoptic", row.dataset, row.head, row.backbone[0] != "x"),
    )


def _row(file: Path, experiment: Mapping[str, Any], recipes: Path) -> PublishedRow:
    chosen = {}
    for default in experiment.get("defaults", ()):
        if isinstance(default, dict):
            for key, option in default.items():
                chosen[key.removeprefix("override ").strip("/ ")] = str(option)
    missing = [group for group in GROUPS if group not in chosen]
    if missing:
        raise ValueError(f"{file.name}: its defaults choose no {' and no '.join(missing)}")
    usual = f"{chosen['dataset']}_{chosen['task']}"
    record = _read(recipes / f"{usual}.yaml")["recipe_record"]
    # Where a dataset's recipe was corrected later, the figures are of the old one.
    old = f"{usual}_old"
    has_old = (recipes / f"{old}.yaml").is_file()
    return PublishedRow(
        experiment=file.stem,
        **{group: chosen[group] for group in GROUPS},
        figures={name: float(value) for name, value in experiment["published"].items()},
        iterations=int(record["iterations"]),
        batch_size=int(record["batch_size"]),
        num_images=VAL_IMAGES.get(chosen["dataset"]),
        recipe=old if has_old else usual,
        other_recipes=(usual,) if has_old else (),
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no experiment or recipe")
    return content


NAMES = {
    "xception65": "Xception-65",
    "hrnet18": "HRNet-18",
    "hrnet32": "HRNet-32",
    "hrnet48": "HRNet-48",
    "hrnet_tiny": "HRNet-tiny",
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "toy_cityscapes": "toy Cityscapes",
    "toy_coco": "toy COCO",
}


def part_name(option: str) -> str:
    """Of a backbone or head; one of one's own is called what its file is."""
    return NAMES.get(option, option)


def dataset_name(option: str) -> str:
    return NAMES.get(option, option)


def figure_name(name: str) -> str:
    """ "box_AP" is printed as "box AP"."""
    return name.replace("_", " ")


TOLERANCE, WIDE = 0.5, 1.5  # percentage points
JUDGED = ("PQ", "mIoU")
LEAST_TRAINING = 0.5  # of the published images seen; with fewer a run is a trial

STATED = (
    f"PQ and mIoU within ±{TOLERANCE} of the published figure count as reproduced, at the "
    f"published batch, iterations and fp32; where one of these differs, within ±{WIDE}. A row "
    "is below when one of the two is, and better when its main figure (PQ, or mIoU of a semantic "
    "row) is above. Differences are rounded to one decimal first, as published figures are."
)

# Leaves under these change a network, its data or its optimisation, except those that only say
# where things are and how they are worked through.
PARTS = ("backbone", "head", "decoder", "pixels", "dataset", "optimizer", "schedule", "task")
HARMLESS = ("dataset.root", "dataset.cache", "dataset.max_bad_samples", "schedule.max_iter")
TRAINING = ("optimizer.lr",)  # goes with the batch


@dataclass(frozen=True)
class Verdict:
    """A word, why, and the tolerance that was used (NaN: none)."""

    word: str
    reason: str = ""
    tolerance: float = math.nan

    @property
    def text(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word

    @property
    def kind(self) -> str:
        """One word for colours: better, reproduced, below, open, failed."""
        if self.word in ("better", "reproduced", "below", "failed"):
            return self.word
        return "open"


NOT_RUN = Verdict("not run")


def judge(group: Group, row: PublishedRow) -> Verdict:
    """The verdict on runs of a row's parts."""
    run = group.first
    if not run.finished:
        open_ended = run.status in ("running", "killed")
        return Verdict(run.status, f"last line {run.moment}" if open_ended else "")
    refused = refusal(run, row)
    if refused:
        return Verdict("no verdict", refused)
    differs = training_differences(run, row)
    tolerance = WIDE if differs else TOLERANCE
    own = {name: found.mean for name in row.figures if (found := group.figure(name)) is not None}
    return verdict(own, row.figures, row.main, tolerance)


def verdict(
    own: Mapping[str, float], published: Mapping[str, float], main: str, tolerance: float
) -> Verdict:
    """Hold figures against published ones, all in percent."""
    if not math.isfinite(own.get(main, math.nan)):
        return Verdict("no verdict", f"{main} is n/a")
    differences = {
        name: round(own[name] - published[name], 1)
        for name in JUDGED
        if name in published and math.isfinite(own.get(name, math.nan))
    }
    # Differences of one decimal are whole tenths but for the last bits of floating point.
    low = [name for name, value in differences.items() if value < -tolerance - 1e-6]
    if low:
        return Verdict("below", "" if low == [main] else " and ".join(low), tolerance)
    if differences[main] > tolerance + 1e-6:
        return Verdict("better", "", tolerance)
    return Verdict("reproduced", "", tolerance)


def refusal(run: Run, row: PublishedRow) -> str:
    """Why figures of this run are not held against the row's; "" where they are."""
    if run.trial:
        return f"trial: {run.trial}"
    recipe = run.choices.get("recipe", row.recipe)
    if recipe not in (row.recipe, *row.other_recipes):
        return f"other recipe: {recipe}"
    images = run.results.get("num_images")
    if None not in (images, row.num_images) and images != row.num_images:
        return f"measured on {images} images, not on all {row.num_images:,}"
    if run.several_looks:
        return "several looks at each image, published figures are of one"
    changed = [name for name in map(_key, run.overrides) if _changes_parts(name)]
    if changed:
        return f"other settings: {', '.join(dict.fromkeys(changed))}"
    seen = _images(run.train)
    if run.mode == "train" and seen < LEAST_TRAINING * row.iterations * row.batch_size:
        share = 100 * seen / (row.iterations * row.batch_size)
        return f"trial: {share:.2g} % of the training"
    return ""


def training_differences(run: Run, row: PublishedRow) -> Sequence[str]:
    """What makes the tolerance wide, for people."""
    if run.mode == "eval":
        return ["weights of unknown training"]
    wanted = {"iterations": row.iterations, "batch_size": row.batch_size, "precision": "fp32"}
    found = []
    for name, value in wanted.items():
        own = run.train.get(name)
        if own != value:
            shown = "unknown" if own is None else f"{own:,}" if isinstance(own, int) else own
            of = f"{value:,}" if isinstance(value, int) else value
            found.append(f"{name.replace('_', ' ')} {shown}, published {of}")
    lr = run.setting("optimizer.lr") if any(_key(o) in TRAINING for o in run.overrides) else None
    return [*found, f"optimizer.lr {lr}"] if lr is not None else found


def recipe_note(run: Run, row: PublishedRow) -> str:
    """Which recipe a run of a corrected one has; "" where there is only one."""
    if not row.other_recipes:
        return ""
    if run.choices.get("recipe") == row.recipe:
        return "old recipe, that of the published figures"
    note = run.published_note or f"published figures are of recipe={row.recipe}"
    return f"corrected recipe: {note}"


def _images(train: Mapping[str, object]) -> float:
    numbers = [train.get(name) for name in ("iterations", "batch_size")]
    if not all(isinstance(number, (int, float)) for number in numbers):
        return 0.0
    return float(numbers[0]) * float(numbers[1])  # type: ignore[arg-type]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _changes_parts(key: str) -> bool:
    harmless = any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
    return "." in key and key.split(".")[0] in PARTS and not harmless and key not in TRAINING


# Columns of tables, as in the published ones; all other figures are in the CSV.


@dataclass(frozen=True)
class Cell:
    """One figure of a line in percent; `own` is None where there is none, NaN where undecided."""

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
    """One row of a table: a published row, an experiment of one's own, or both."""

    title: str
    row: str
    cells: Mapping[str, Cell]
    verdict: Verdict | None = None  # None where nothing is published
    notes: Sequence[str] = ()
    group: Group | None = None  # None where it was not run


@dataclass(frozen=True)
class Table:
    """Lines with the same columns."""

    title: str
    columns: Sequence[str]
    lines: Sequence[Line] = field(default_factory=tuple)
    published: bool = False

    @property
    def key(self) -> str:
        """For names of anchors and labels."""
        letters = [
            each if each.isalnum() and each.isascii() else "-" for each in self.title.lower()
        ]
        return "-".join(filter(None, "".join(letters).split("-"))) or "table"


def build_tables(groups: Sequence[Group], rows: Sequence[PublishedRow]) -> list[Table]:
    """The published tables with all of their rows, then one for each other dataset and task."""
    of_row: dict[str, list[Group]] = {}
    for group in groups:
        of_row.setdefault(group.first.row, []).append(group)
    tables = []
    for key in dict.fromkeys(row.table for row in rows):
        members = [row for row in rows if row.table == key]
        lines = [line for row in members for line in _published_lines(row, of_row.get(row.row, []))]
        dataset, task, head = key
        title = ", ".join([dataset_name(dataset), task, head])
        columns = [c for c in PUBLISHED if any(c in row.figures for row in members)]
        tables.append(Table(title, columns, lines, published=True))
    known = {row.row for row in rows}
    others: dict[str, list[Group]] = {}
    for group in groups:
        if group.first.row not in known:
            others.setdefault(_kind(group.first), []).append(group)
    return tables + [_other_table(title, members) for title, members in others.items()]


def _published_lines(row: PublishedRow, groups: Sequence[Group]) -> list[Line]:
    title = part_name(row.backbone)
    if not groups:
        cells = {name: Cell(None, value) for name, value in row.figures.items()}
        return [Line(title, row.row, cells, NOT_RUN)]
    lines = []
    for group in groups:
        cells = {name: Cell(group.figure(name), value) for name, value in row.figures.items()}
        run = group.first
        notes: list[str] = []
        if run.finished and not refusal(run, row):
            notes += training_differences(run, row)
        notes += filter(None, [recipe_note(run, row)])
        lines.append(
            Line(title, row.row, cells, judge(group, row), [*notes, *_notes(group)], group)
        )
    return lines


def _other_table(title: str, groups: Sequence[Group]) -> Table:
    columns = [c for c in PUBLISHED if any(c in group.figures() for group in groups)]
    lines = []
    for group in groups:
        run = group.first
        parts = [part_name(run.choices[g]) for g in ("backbone", "head") if g in run.choices]
        cells = {name: Cell(group.figure(name)) for name in columns}
        notes = [] if run.finished else [run.status]
        notes += [f"trial: {run.trial}"] if run.trial else []
        lines.append(
            Line(", ".join(parts) or run.row, run.row, cells, None, notes + _notes(group), group)
        )
    return Table(title, columns, lines)


def _kind(run: Run) -> str:
    """The table of a run without published figures."""
    dataset, task = (run.choices.get(group) for group in ("dataset", "task"))
    return f"{dataset_name(dataset)}, {task}" if dataset and task else run.row


def _notes(group: Group) -> list[str]:
    """What to know of a group's figures."""
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
    undecided = [figure_name(n) for n in group.figures() if _is_undecided(group, n)]
    if undecided:
        notes.append(f"n/a: {', '.join(undecided)}")
    return notes


def _is_undecided(group: Group, name: str) -> bool:
    found = group.figure(name)
    return name in PUBLISHED and found is not None and math.isnan(found.mean)
