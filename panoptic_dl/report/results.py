"""The metrics of an evaluation as tables, Markdown and CSV.

All metrics are percentages; NaN, which no image could decide, is "n/a" in print and empty in CSV.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from panoptic_dl.core.files import csv_text, markdown_text
from panoptic_dl.report.formats import load_template
from panoptic_dl.report.text import as_difference, as_text, markdown_table, metric_name

TITLES = {
    "panoptic_seg": "Panoptic quality",
    "sem_seg": "Semantic segmentation",
    "bbox": "Boxes",
    "segm": "Masks",
}


def summary_table(summary: Mapping[str, Any]) -> str:
    """Metrics of a summary in percent, published ones and differences; of files: nobody's own."""
    metrics, published = summary["metrics"], summary["published"] or {}
    name = "files" if "predictions" in summary["measured"] else "own"
    rows = [[name, *map(as_text, metrics.values())]]
    theirs = {n: as_text(published[n]) for n in metrics if n in published}
    gaps = {n: as_difference(metrics[n] - published[n]) for n in theirs}
    for title, texts in (("published", theirs), ("difference", gaps)) if published else ():
        rows.append([title, *(texts.get(n, "") for n in metrics)])
    return markdown_table(["", *map(metric_name, metrics)], rows)


def comparison_of_weights(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of several evaluations by their names; all have the same columns."""
    columns = list(next(iter(rows.values())))
    lines = [[name, *(as_text(metrics[c]) for c in columns)] for name, metrics in rows.items()]
    return markdown_table(["", *map(metric_name, columns)], lines)


def comparison_table(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Name, own metric, official metric and difference, to ten decimals."""
    lines = [[n, as_text(own, 10), as_text(other, 10), f"{d:+.1e}"] for n, own, other, d in rows]
    return markdown_table(["", "own", "official", "difference"], lines)


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What to know when the metrics of a summary are compared with the published ones."""
    found = [summary["no_result"]] if summary.get("no_result") else []
    if summary["published"]:
        if summary["published_note"]:
            found.append(summary["published_note"])
        measured = summary["measured"]
        if measured["scales"] != [1.0] or measured["flip"]:
            found.append("published metrics are of one look at each image, these of several")
    return found


@dataclass(frozen=True)
class _ClassTable:
    """Metrics by class; a row is a name and one value for each of `columns`."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]

    def text(self) -> str:
        """As a Markdown table."""
        rows = [[markdown_text(name), *map(as_text, values)] for name, values in self.rows]
        return markdown_table(["", *self.columns], rows)


def class_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Percentages by metric and class, from keys such as `PQ-road`; NaN for what is no number."""
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        metric, dash, name = str(key).partition("-")
        if dash:
            number = isinstance(value, Real) and not isinstance(value, bool)
            found.setdefault(metric, {})[name] = float(value) if number else math.nan
    return found


def class_tables(results: Mapping[str, Mapping[str, Any]]) -> list[_ClassTable]:
    """Tables of the metrics of classes and categories, such as `PQ-road` and `IoU_sup-sky`."""
    tables = []
    for task, metrics in results.items():
        by_metric = class_metrics(metrics)
        for kind, is_category in (("class", False), ("category", True)):
            chosen = {
                metric.removesuffix("_sup"): values
                for metric, values in by_metric.items()
                if metric.endswith("_sup") == is_category
            }
            names = dict.fromkeys(name for values in chosen.values() for name in values)
            rows = [(n, [values.get(n, math.nan) for values in chosen.values()]) for n in names]
            if rows:
                title = f"{TITLES.get(task, task)} by {kind}"
                tables.append(_ClassTable(title, list(chosen), rows))
    return tables


def results_markdown(summary: Mapping[str, Any]) -> str:
    """The headline, notes and all classes of one evaluation.

    `summary` has "dataset", "num_images", "measured", "metrics", "published", "published_note",
    "results"; and "no_result", why they are none, of a trial.
    """
    return load_template("results.md").render(
        summary=summary,
        table=summary_table(summary),
        notes=notes(summary),
        class_tables=class_tables(summary["results"]),
    )


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
            writer.writerow([task, metric, csv_text(name), value if math.isfinite(value) else ""])
    return text.getvalue()
