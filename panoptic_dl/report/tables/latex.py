"""Tables for a paper: LaTeX with booktabs, one `table` each; \\input it after \\usepackage."""

from collections.abc import Sequence

from .build import Line, Table
from .names import figure_name
from .text import KINDS, PLUS_MINUS, SHORT, line_texts, notes_text
from .verdict import STATED

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
