r"""Tables of runs as Markdown, LaTeX and CSV, with the same cells as the HTML page.

LaTeX needs the package booktabs; each table is one `table`, to be read by \input. The CSV has one
line a run and metric, in full precision.
"""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from panoptic_dl.core.files import csv_text, latex_text, markdown_text, visible
from panoptic_dl.report.runs import Collected, Run
from panoptic_dl.report.tables import COSTS, STATED, Cell, Line, Table
from panoptic_dl.report.text import as_difference, as_text, markdown_table, metric_name

TEMPLATES = Path(__file__).parent / "templates"
PLUS_MINUS = "±"
CSV_COLUMNS = (
    "table", "row", "title", "run", "mode", "recipe", "seed", "status", "metric",
    "own", "published", "difference", "verdict",
)  # fmt: skip


def cell_texts(cell: Cell | None, with_published: bool) -> list[str]:
    """The texts of a metric: own, and published and difference where the table has them.

    Own is "62.4", "62.4 ± 0.3" over several seeds, "n/a" where undecided, "" where there is none.
    """
    cell, own = cell or Cell(), ""
    if cell.own is not None:
        own = as_text(cell.own.mean)
        if math.isfinite(cell.own.deviation):
            own += f" {PLUS_MINUS} {as_text(cell.own.deviation)}"
    if not with_published:
        return [own]
    published = "" if cell.published is None else as_text(cell.published)
    return [own, published, "" if cell.difference is None else as_difference(cell.difference)]


def line_texts(line: Line, table: Table) -> list[str]:
    """All cells in the order of the columns; the best are bold, in Markdown."""
    texts = []
    for name in table.columns:
        found = cell_texts(line.cells.get(name), table.published)
        texts += [f"**{x}**" for x in found] if table.is_best(line, name) else found
    return texts


def report_markdown(tables: Sequence[Table], collected: Collected) -> str:
    """The whole report."""
    failed = [(run.label, run.error or "?") for run in collected.runs if run.status == "failed"]
    lists = {
        "Failed": failed + collected.failed,
        "Not started": [(label, "") for label, _ in collected.planned],
        "Unreadable": collected.unreadable,
    }
    functions = {"table_markdown": table_markdown, "markdown_text": markdown_text}
    return load_template("report.md").render(tables=tables, lists=lists, stated=STATED, **functions)


def table_markdown(table: Table, runs: bool = True) -> str:
    """A heading, a table, and the notes of its lines; `runs`: with the folders of runs."""
    kinds = (" own", " publ.", " diff.") if table.published else ("",)
    metrics = [f"{metric_name(name)}{kind}" for name in table.columns for kind in kinds]
    headings = ["row", *(["run"] if runs else []), *metrics]
    headings += ["verdict"] if table.published else []
    rows: list[list[str]] = []
    notes: list[str] = []
    for line in table.lines:
        mark = f" ({len(notes) + 1})" if line.notes else ""
        cells = [markdown_text(line.name) + mark]
        if line.notes:
            notes.append(f"{mark.strip()} {markdown_text('; '.join(line.notes))}")
        if runs:
            count = len(line.group.finished) if line.group else 0
            label = line.group.first.label if line.group else ""
            cells.append(markdown_text(label + (f" (n={count})" if count > 1 else "")))
        verdict = [markdown_text(line.verdict.text)] if line.verdict else []
        rows.append([*cells, *line_texts(line, table), *verdict])
    align = ("ll" if runs else "l") + "r" * len(metrics) + ("l" if table.published else "")
    parts = [f"### {markdown_text(table.title)}", markdown_table(headings, rows, align)]
    return "\n\n".join([*parts, *(["  \n".join(notes)] if notes else [])])


def report_latex(tables: Sequence[Table]) -> str:
    """All tables that have lines."""
    marks = {"block_start_string": "<%", "block_end_string": "%>"}
    marks |= {"variable_start_string": "<<", "variable_end_string": ">>"}
    return load_template("report.tex", **marks).render(
        tables=tables,
        stated=STATED.replace(PLUS_MINUS, "+-"),
        tex=latex_text,
        cell_texts=cell_texts,
        label=lambda text: "-".join(re.findall("[a-z0-9]+", text.lower())) or "table",
        caption=_caption,
    )


def load_template(name: str, **options: Any) -> Template:
    """A file of templates/; `options` are those of Jinja's environment."""
    loader = FileSystemLoader(TEMPLATES)

    def clean(value: Any) -> Any:
        return visible(value) if type(value) is str else value  # markup is that of templates

    environment = Environment(
        loader=loader, undefined=StrictUndefined, trim_blocks=True, finalize=clean, **options
    )
    return environment.get_template(name)


def _caption(table: Table) -> str:
    notes = [f"{line.name}: {'; '.join(line.notes)}." for line in table.lines if line.notes]
    return " ".join([f"{table.title}.", *notes])


def report_csv(tables: Sequence[Table]) -> str:
    """One line for each metric of each run, in percent, also of runs without an end or metrics.

    `own` is empty where a metric was undecided. The verdict and the costs are the group's.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for line in table.lines:
            published = {n: c.published for n, c in line.cells.items() if c.published is not None}
            costs = {n: c.own.mean for n, c in line.cells.items() if n in COSTS and c.own}
            about = {"table": table.title, "row": line.row, "title": line.name}
            about |= {"status": "not run"}
            about |= {"verdict": line.verdict.text} if line.verdict else {}
            runs: Sequence[Run | None] = line.group.runs if line.group else [None]
            for run in runs:
                if run:
                    seed, recipe = run.seed, run.choices.get("recipe", "")
                    about |= {"run": run.label, "mode": run.mode, "recipe": recipe}
                    about |= {"seed": "" if seed is None else str(seed), "status": run.status}
                metrics = {**run.metrics, **costs} if run else {}
                names = dict.fromkeys([*published, *metrics])
                for name in [n for n in names if not table.wanted or n in table.columns] or [""]:
                    own, theirs = metrics.get(name, math.nan), published.get(name, math.nan)
                    numbers = {"own": own, "published": theirs, "difference": own - theirs}
                    writer.writerow(
                        {key: csv_text(value) for key, value in (about | {"metric": name}).items()}
                        | {key: repr(x) for key, x in numbers.items() if math.isfinite(x)}
                    )
    return text.getvalue()
