"""The report as Markdown: tables, and what to know of them."""

from collections.abc import Sequence

from tabulate import tabulate

from panoptic_dl.report.runs.collect import Collected

from .build import Line, Table
from .names import figure_name
from .text import KINDS, SHORT, line_texts, notes_text, run_text
from .verdict import STATED


def report_markdown(tables: Sequence[Table], collected: Collected) -> str:
    """The whole report."""
    parts = ["# Report", "Figures are percentages; ± is the standard deviation over n seeds."]
    published = [table for table in tables if table.published]
    if published:
        parts += ["## Own and published figures", f"Verdicts: {STATED}"]
        parts += [table_markdown(table, level=3) for table in published]
    others = [table for table in tables if not table.published]
    if others:
        parts += ["## Other runs", "Nobody published figures for these; there are no verdicts."]
        parts += [table_markdown(table, level=3) for table in others]
    failed = [run for run in collected.runs if run.status == "failed"]
    lists = [
        ("Failed", [f"`{_code(run.label)}`: {_inline(run.error or '?')}" for run in failed]),
        ("Not started", [f"`{_code(row.label)}`" for row in collected.planned]),
        (
            "Unreadable",
            [f"`{_code(item.label)}`: {_inline(item.reason)}" for item in collected.unreadable],
        ),
    ]
    for title, items in lists:
        if items:
            parts += [f"## {title}", "\n".join(f"* {item}" for item in items)]
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table, level: int = 2, runs: bool = True) -> str:
    """A heading, a table, and the notes of its lines.

    Args:
        level: of the heading.
        runs: whether the folders of runs are named.
    """
    headings = ["row", *(["run"] if runs else [])]
    for name in table.columns:
        shown = figure_name(name)
        headings += [f"{shown} {SHORT[kind]}" for kind in KINDS] if table.published else [shown]
    headings += ["verdict"] if table.published else []
    rows: list[list[str]] = []
    notes: list[str] = []
    for line in table.lines:
        mark = ""
        if line.notes:
            notes.append(f"({len(notes) + 1}) {_inline(notes_text(line.notes))}")
            mark = f" ({len(notes)})"
        cells = [_inline(line.title) + mark, *([_inline(run_text(line))] if runs else [])]
        cells += line_texts(line, table)
        cells += [_inline(_verdict(line))] if table.published else []
        rows.append(cells)
    left = ["left"] * (2 if runs else 1)
    right = ["right"] * (len(headings) - len(left) - table.published)
    align = (*left, *right, *(["left"] if table.published else []))
    text = tabulate(rows, headings, "github", colalign=align, disable_numparse=True)
    parts = [f"{'#' * level} {_inline(table.title)}", text]
    return "\n\n".join([*parts, *(["  \n".join(notes)] if notes else [])])


def _verdict(line: Line) -> str:
    return "" if line.verdict is None else line.verdict.text


def _inline(text: str) -> str:
    """Text that Markdown leaves alone, also within a table."""
    text = " ".join(text.split())
    for special in "\\`*_[]<>|#":
        text = text.replace(special, f"\\{special}")
    return text


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())
