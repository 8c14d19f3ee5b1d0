r"""Tables of runs as Markdown, LaTeX and CSV, with the same cells as the HTML page.

LaTeX needs the package booktabs; each table is one `table`, to be read by \input. The CSV has one
line a run and metric, in full precision.
"""

import csv
import io
import math
from collections.abc import Sequence

from tabulate import tabulate

from panoptic_dl.report.results import as_difference, as_text
from panoptic_dl.report.runs import Collected, Run
from panoptic_dl.report.tables import STATED, Cell, Line, Table, metric_name

PLUS_MINUS = "±"
SHORT = ("own", "publ.", "diff.")
CSV_COLUMNS = (
    "table", "row", "run", "mode", "recipe", "seed", "status", "figure",
    "own", "published", "difference", "verdict",
)  # fmt: skip
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", PLUS_MINUS: "$\\pm$", "·": "$\\cdot$"},
}


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
    """All cells of metrics, in the order of the columns."""
    cells = (cell_texts(line.cells.get(name), table.published) for name in table.columns)
    return [text for texts in cells for text in texts]


def report_markdown(tables: Sequence[Table], collected: Collected) -> str:
    """The whole report."""
    parts = ["# Report", "Figures are percentages; ± is the standard deviation over n seeds."]
    for published, head in (
        (True, ["## Own and published figures", f"Verdicts: {STATED}"]),
        (False, ["## Other runs", "Nobody published figures for these; there are no verdicts."]),
    ):
        texts = [table_markdown(table) for table in tables if table.published == published]
        parts += head + texts if texts else []
    failed = [(run.label, run.error or "?") for run in collected.runs if run.status == "failed"]
    planned = [(label, "") for label, _ in collected.planned]
    lists = {"Failed": failed, "Not started": planned, "Unreadable": collected.unreadable}
    for title, items in lists.items():
        if items:
            lines = (f"* `{_code(x)}`" + (f": {_inline(why)}" if why else "") for x, why in items)
            parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table, runs: bool = True) -> str:
    """A heading, a table, and the notes of its lines; `runs`: with the folders of runs."""
    headings = ["row", *(["run"] if runs else [])]
    for name in map(metric_name, table.columns):
        headings += [f"{name} {kind}" for kind in SHORT] if table.published else [name]
    headings += ["verdict"] if table.published else []
    rows: list[list[str]] = []
    notes: list[str] = []
    for line in table.lines:
        mark = ""
        if line.notes:
            notes.append(f"({len(notes) + 1}) {_inline('; '.join(line.notes))}")
            mark = f" ({len(notes)})"
        cells = [_inline(line.title) + mark]
        if runs:
            count = len(line.group.finished) if line.group else 0
            label = line.group.first.label if line.group else ""
            cells.append(_inline(label + (f" (n={count})" if count > 1 else "")))
        cells += line_texts(line, table)
        cells += [_inline(line.verdict.text)] if line.verdict else []
        rows.append(cells)
    left = ["left"] * (2 if runs else 1)
    right = ["right"] * (len(headings) - len(left) - table.published)
    align = (*left, *right, *(["left"] if table.published else []))
    text = tabulate(rows, headings, "github", colalign=align, disable_numparse=True)
    parts = [f"### {_inline(table.title)}", text]
    return "\n\n".join([*parts, *(["  \n".join(notes)] if notes else [])])


def _inline(text: str) -> str:
    """Text that Markdown leaves alone, also within a table."""
    text = " ".join(text.split())
    for special in "\\`*_[]<>|#":
        text = text.replace(special, f"\\{special}")
    return text


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


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
    return "".join(LATEX.get(letter, letter) for letter in kept)


def _table(table: Table) -> str:
    kinds = SHORT if table.published else SHORT[:1]
    per_metric = len(kinds)
    columns = "l" + "r" * (per_metric * len(table.columns)) + ("l" if table.published else "")
    names = [escape(metric_name(name)) for name in table.columns]
    if table.published:
        top = " & ".join(["", *(f"\\multicolumn{{{per_metric}}}{{c}}{{{n}}}" for n in names), ""])
        rules = "".join(
            f"\\cmidrule(lr){{{2 + per_metric * i}-{1 + per_metric * (i + 1)}}}"
            for i in range(len(names))
        )
        below = " & ".join(["Row", *kinds * len(names), "Verdict"])
        head = [f"{top} \\\\", rules, f"{below} \\\\"]
    else:
        head = [" & ".join(["Row", *names]) + " \\\\"]
    lines = []
    for line in table.lines:
        cells = [escape(line.title)]
        for text in line_texts(line, table):  # with a minus sign in place of a hyphen
            cells.append(f"$-${text[1:]}" if text.startswith("-") else escape(text))
        cells += [escape(line.verdict.word)] if line.verdict else []
        lines.append(" & ".join(cells) + " \\\\")
    notes = [f"{line.title}: {'; '.join(line.notes)}." for line in table.lines if line.notes]
    caption = " ".join([f"{escape(table.title)}.", *([escape(" ".join(notes))] if notes else [])])
    body = "\n".join([*head, "\\midrule", *lines])
    letters = "".join(x if x.isalnum() and x.isascii() else " " for x in table.title.lower())
    return rf"""\begin{{table}}
\centering
\setlength{{\tabcolsep}}{{3pt}}
\caption{{{caption}}}
\label{{tab:{"-".join(letters.split()) or "table"}}}
\begin{{tabular}}{{{columns}}}
\toprule
{body}
\bottomrule
\end{{tabular}}
\end{{table}}"""


def report_csv(tables: Sequence[Table]) -> str:
    """One line for each metric of each run, in percent, also of runs without an end or metrics.

    `own` is empty where a metric was undecided. The verdict is the group's.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for line in table.lines:
            published = {n: c.published for n, c in line.cells.items() if c.published is not None}
            verdict = line.verdict.text if line.verdict else ""
            runs: Sequence[Run | None] = line.group.runs if line.group else [None]
            for run in runs:
                metrics = run.metrics if run else {}
                about = [table.title, line.row, "", "", "", "", "not run"]
                if run:
                    seed = "" if run.seed is None else str(run.seed)
                    recipe = run.choices.get("recipe", "")
                    about[2:] = [run.label, run.mode, recipe, seed, run.status]
                for name in [*published, *(n for n in metrics if n not in published)] or [""]:
                    own, theirs = metrics.get(name, math.nan), published.get(name, math.nan)
                    numbers = [_number(own), _number(theirs), _number(own - theirs)]
                    cells = [*map(_safe, about[:5]), *about[5:], _safe(name)]
                    writer.writerow([*cells, *numbers, _safe(verdict)])
    return text.getvalue()


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
