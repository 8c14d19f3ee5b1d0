"""All figures as CSV: one line a run and figure, in full precision."""

import csv
import io
import math
from collections.abc import Sequence

from panoptic_dl.report.runs.groups import Group

from .build import Table

COLUMNS = (
    *("table", "row", "run", "mode", "recipe", "seed", "status", "figure"),
    *("own", "published", "difference", "verdict"),
)


def report_csv(tables: Sequence[Table]) -> str:
    """One line for each figure of each run, also of those without an end (and without figures).

    `own` is empty where a figure was undecided; percentages. The verdict is the group's.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for line in table.lines:
            published = {n: c.published for n, c in line.cells.items() if c.published is not None}
            verdict = line.verdict.text if line.verdict else ""
            rows = _runs(line.group) if line.group else [("", "", "", "", "not run", {})]
            for label, mode, recipe, seed, status, metrics in rows:
                for name in [*published, *(n for n in metrics if n not in published)] or [""]:
                    own, theirs = metrics.get(name), published.get(name)
                    numbers = [_number(own), _number(theirs)]
                    both = own is not None and theirs is not None
                    numbers.append(_number(own - theirs) if both else "")  # type: ignore[operator]
                    about = [_safe(part) for part in (table.title, line.row, label, mode, recipe)]
                    writer.writerow(
                        [*about, seed, status, _safe(name), *numbers, _safe(verdict)],
                    )
    return text.getvalue()


def _runs(group: Group) -> list[tuple[str, str, str, str, str, dict[str, float]]]:
    return [
        (
            run.label,
            run.mode,
            run.choices.get("recipe", ""),
            "" if run.seed is None else str(run.seed),
            run.status,
            dict(run.metrics),
        )
        for run in group.runs
    ]


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
