"""Figures of single classes, of the runs of a table side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panoptic_dl.report.tables.build import Table

MEASURES = (("panoptic_seg", "PQ"), ("sem_seg", "IoU"))


@dataclass(frozen=True)
class ClassTable:
    """Percentages: a row for each class from the best to the worst, a column for each run."""

    title: str
    measure: str
    runs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float]]]  # NaN: not in the truth, or not measured


def class_tables(tables: Sequence[Table]) -> list[ClassTable]:
    """PQ by class for each table with such figures, else IoU."""
    found = []
    for table in tables:
        for task, measure in MEASURES:
            columns = {}
            for line in table.lines:
                run = line.group.first if line.group else None
                values = _of_classes(run.results, task, measure) if run and run.finished else {}
                if run and values:
                    columns[run.label] = values
            if columns:
                found.append(_table(table.title, measure, columns))
                break
    return found


def _of_classes(results: Mapping[str, object], task: str, measure: str) -> dict[str, float]:
    """Of one evaluation, by class."""
    tasks = results.get("results")
    figures = tasks.get(task) if isinstance(tasks, dict) else None
    found = {}
    for key, value in figures.items() if isinstance(figures, dict) else ():
        name, dash, of_class = str(key).partition("-")
        if dash and name == measure:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            found[of_class] = float(value) if number else math.nan
    return found


def _table(title: str, measure: str, columns: Mapping[str, Mapping[str, float]]) -> ClassTable:
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [(n, [values.get(n, math.nan) for values in columns.values()]) for n in names]
    rows.sort(key=lambda row: -_mean(row[1]))
    return ClassTable(title, measure, list(columns), rows)


def _mean(values: Sequence[float]) -> float:
    """Over the runs that have it; below all others where none has."""
    present = [value for value in values if math.isfinite(value)]
    return sum(present) / len(present) if present else -1.0
