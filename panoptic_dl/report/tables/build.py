"""Tables of groups of runs: the published ones with verdicts, all others without."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from panoptic_dl.report.runs.groups import Group, Spread
from panoptic_dl.report.runs.run import Run

from .names import dataset_name, figure_name, part_name
from .published import PublishedRow
from .verdict import NOT_RUN, Verdict, judge, recipe_note, refusal, training_differences

# Columns of tables, as in the published ones; all other figures are in the CSV.
COLUMNS = ("PQ", "SQ", "RQ", "mIoU", "AP", "box_AP", "mask_AP")


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
        columns = [c for c in COLUMNS if any(c in row.figures for row in members)]
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
    columns = [c for c in COLUMNS if any(c in group.figures() for group in groups)]
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
    return name in COLUMNS and found is not None and math.isnan(found.mean)
