"""The metrics of an evaluation as tables, Markdown and CSV.

All metrics are percentages; NaN, which no image could decide, is "n/a" in print and empty in CSV.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

TITLES = {
    "panoptic_seg": "Panoptic quality",
    "sem_seg": "Semantic segmentation",
    "bbox": "Boxes",
    "segm": "Masks",
}


@dataclass(frozen=True)
class _ClassTable:
    """Metrics by class; a row is a name and one value for each of `columns`."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]

    def text(self) -> str:
        """As a Markdown table."""
        rows = [[name, *(as_text(value) for value in values)] for name, values in self.rows]
        return _table(["", *self.columns], rows)


def as_text(value: float, digits: int = 1) -> str:
    """Format a metric: "62.6", or "n/a" when it could not be computed."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def as_difference(value: float) -> str:
    """Format a difference: "+0.4", or "n/a" when one of the two could not be computed."""
    return f"{value:+.1f}" if math.isfinite(value) else "n/a"


def headline_table(
    metrics: Mapping[str, float], published: Mapping[str, float] | None = None
) -> str:
    """The metrics in one row, in percent; with `published`, those and the differences below."""
    rows = [["own", *(as_text(value) for value in metrics.values())]]
    if published:
        theirs = [as_text(published[n]) if n in published else "" for n in metrics]
        differences = [
            as_difference(value - published[name]) if name in published else ""
            for name, value in metrics.items()
        ]
        rows += [["published", *theirs], ["difference", *differences]]
    return _table(["", *(name.replace("_", " ") for name in metrics)], rows)


def comparison_of_weights(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of several evaluations by their names; all have the same columns."""
    columns = list(next(iter(rows.values())))
    lines = [[name, *(as_text(metrics[c]) for c in columns)] for name, metrics in rows.items()]
    return _table(["", *(column.replace("_", " ") for column in columns)], lines)


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What to know when the metrics of a summary are compared with the published ones."""
    found = [summary["no_result"]] if summary.get("no_result") else []
    if summary["published"]:
        if summary["published_note"]:
            found.append(summary["published_note"])
        measured = summary["measured"]
        if measured["scales"] != [1.0] or measured["flip"]:
            found.append("published figures are of one look at each image, these of several")
    return found


def class_tables(results: Mapping[str, Mapping[str, Any]]) -> list[_ClassTable]:
    """Tables of the metrics of classes and categories, such as `PQ-road` and `IoU_sup-sky`."""
    tables = []
    for task, metrics in results.items():
        for kind, is_category in (("class", False), ("category", True)):
            names: dict[str, dict[str, float]] = {}
            columns: list[str] = []
            for key, value in metrics.items():
                metric, dash, name = key.partition("-")
                if not dash or metric.endswith("_sup") != is_category:
                    continue
                metric = metric.removesuffix("_sup")
                columns += [metric] if metric not in columns else []
                names.setdefault(name, {})[metric] = float(value)
            if columns:
                rows = [
                    (name, [values.get(column, math.nan) for column in columns])
                    for name, values in names.items()
                ]
                tables.append(_ClassTable(f"{TITLES.get(task, task)} by {kind}", columns, rows))
    return tables


def comparison_table(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Name, own metric, official metric and difference, to ten decimals."""
    return _table(
        ["", "own", "official", "difference"],
        [
            [name, as_text(own, 10), as_text(official, 10), f"{difference:+.1e}"]
            for name, own, official, difference in rows
        ],
    )


def results_markdown(summary: Mapping[str, Any]) -> str:
    """The headline, notes and all classes of one evaluation.

    Args:
        summary: "dataset", "num_images", "measured", "metrics", "published", "published_note",
            "results"; "no_result", why they are none, of a trial.
    """
    parts = [
        f"# {summary['no_result']}" if summary.get("no_result") else "",
        f"# {summary['dataset']}: {summary['num_images']} images",
        headline_table(summary["metrics"], summary["published"]),
    ]
    measured = ", ".join(f"{key}={value}" for key, value in summary["measured"].items())
    parts.append(f"Measured: {measured}")
    parts += [f"Note: {note}" for note in notes(summary)]
    for table in class_tables(summary["results"]):
        parts += [f"## {table.title}", table.text()]
    return "\n\n".join(filter(None, parts)) + "\n"


def results_csv(summary: Mapping[str, Any]) -> str:
    """One line a value: task, metric, class (empty for means) and value in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if summary.get("no_result"):
        writer.writerow([summary["no_result"], "", "", ""])
    writer.writerow(["task", "metric", "class", "value"])
    for task, metrics in summary["results"].items():
        for key, value in metrics.items():
            metric, _, name = key.partition("-")
            writer.writerow([task, metric, name, value if math.isfinite(value) else ""])
    return text.getvalue()


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    align = ("left", *["right"] * (len(headings) - 1))
    return tabulate(rows, headings, "github", colalign=align, disable_numparse=True)
