r"""Cells and lines of tables as text, the same in Markdown, LaTeX and HTML.

The report as Markdown: tables, and what to know of them.

Tables for a paper: LaTeX with booktabs, one `table` each; \input it after \usepackage.

All figures as CSV: one line a run and figure, in full precision.
"""

import csv
import io
import math
from collections.abc import Sequence

from tabulate import tabulate

from panoptic_dl.report.results import as_difference, as_text
from panoptic_dl.report.runs import Collected, Group, Spread
from panoptic_dl.report.tables import STATED, Cell, Line, Table, figure_name

PLUS_MINUS = "±"
KINDS = ("own", "published", "difference")
SHORT = dict(zip(KINDS, ("own", "publ.", "diff."), strict=True))


def own_text(own: Spread | None) -> str:
    """ "62.4", "62.4 ± 0.3" over several seeds, "n/a" where undecided, "" where there is none."""
    if own is None:
        return ""
    text = as_text(own.mean)
    return f"{text} {PLUS_MINUS} {as_text(own.deviation)}" if math.isfinite(own.deviation) else text


def cell_texts(cell: Cell | None, with_published: bool) -> list[str]:
    """The texts of one figure: own, and published and difference where the table has them."""
    if cell is None:
        return [""] * (len(KINDS) if with_published else 1)
    texts = [own_text(cell.own)]
    if with_published:
        texts.append("" if cell.published is None else as_text(cell.published))
        texts.append("" if cell.difference is None else as_difference(cell.difference))
    return texts


def line_texts(line: Line, table: Table) -> list[str]:
    """All cells of figures, in the order of the columns."""
    found: list[str] = []
    for name in table.columns:
        found += cell_texts(line.cells.get(name), table.published)
    return found


def run_text(line: Line) -> str:
    """The run, with the number of seeds where there are several."""
    if line.group is None:
        return ""
    count = len(line.group.finished)
    return f"{line.group.label} (n={count})" if count > 1 else line.group.label


def notes_text(notes: Sequence[str]) -> str:
    return "; ".join(notes)


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


SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", PLUS_MINUS: "$\\pm$", "·": "$\\cdot$"},
}


def report_latex(tables: Sequence[Table]) -> str:
    """All tables that have lines."""
    head = [
        "% Needs \\usepackage{booktabs}; made by scripts/report.py.",
        "% Verdicts: " + STATED.replace(PLUS_MINUS, "+-"),
    ]
    return "\n\n".join(["\n".join(head), *(_table(table) for table in tables)]) + "\n"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; line ends become spaces, control characters are dropped."""
    kept = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return "".join(SPECIAL.get(letter, letter) for letter in kept)


def _table(table: Table) -> str:
    kinds = KINDS if table.published else KINDS[:1]
    per_figure = len(kinds)
    columns = "l" + "r" * (per_figure * len(table.columns)) + ("l" if table.published else "")
    names = [escape(figure_name(name)) for name in table.columns]
    if table.published:
        top = " & ".join(["", *(f"\\multicolumn{{{per_figure}}}{{c}}{{{n}}}" for n in names), ""])
        rules = "".join(
            f"\\cmidrule(lr){{{2 + per_figure * i}-{1 + per_figure * (i + 1)}}}"
            for i in range(len(names))
        )
        below = " & ".join(["Row", *[SHORT[kind] for kind in kinds] * len(names), "Verdict"])
        head = [f"{top} \\\\", rules, f"{below} \\\\"]
    else:
        head = [" & ".join(["Row", *names]) + " \\\\"]
    lines = [f"{_line(line, table)} \\\\" for line in table.lines]
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            "\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{escape(table.title)}.{_notes(table.lines)}}}",
            f"\\label{{tab:{table.key}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            *head,
            "\\midrule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    )


def _line(line: Line, table: Table) -> str:
    cells = [escape(line.title), *(_figure(text) for text in line_texts(line, table))]
    if table.published:
        cells.append(escape(line.verdict.word if line.verdict else ""))
    return " & ".join(cells)


def _figure(text: str) -> str:
    """With a minus sign in place of a hyphen."""
    return f"$-${text[1:]}" if text.startswith("-") else escape(text)


def _notes(lines: Sequence[Line]) -> str:
    found = [f"{line.title}: {notes_text(line.notes)}." for line in lines if line.notes]
    return " " + escape(" ".join(found)) if found else ""


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
