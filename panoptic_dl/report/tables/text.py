"""Cells and lines of tables as text, the same in Markdown, LaTeX and HTML."""

import math
from collections.abc import Sequence

from panoptic_dl.report.results import as_difference, as_text
from panoptic_dl.report.runs.groups import Spread

from .build import Cell, Line, Table

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
