"""Metrics, durations, short names and tables as text."""

import math
from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from panoptic_dl.core.files import table_cell

ALIGNMENTS = {"l": "left", "c": "center", "r": "right"}


def as_text(value: float, digits: int = 1) -> str:
    """Format a metric: "62.6", or "n/a" when it could not be computed."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "n/a"


def as_difference(value: float) -> str:
    """Format a difference: "+0.4", or "n/a" when one of the two could not be computed."""
    return f"{value:+.1f}" if math.isfinite(value) else "n/a"


def metric_name(name: str) -> str:
    """ "box_AP" is printed as "box AP"."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """ "3 h 05 min", "4 min 12 s", "8.5 s"; "" where it is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def short_names(names: Sequence[str], separator: str) -> dict[str, str]:
    """By name its last part, or as many parts as no other name ends with."""
    parts = {name: tuple(name.split(separator)) for name in names}
    ends = Counter(each[-n:] for each in parts.values() for n in range(1, len(each) + 1))
    short = {}
    for name, each in parts.items():
        clear = (each[-n:] for n in range(1, len(each)) if ends[each[-n:]] == 1)
        short[name] = separator.join(next(clear, each))
    return short


def markdown_table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], align: str = ""
) -> str:
    """A table in which no foreign text tears a row; `align` has `l`, `c` or `r` a column."""
    columns = [ALIGNMENTS[each] for each in align or "l" + "r" * (len(headings) - 1)]
    cells = [[table_cell(cell) for cell in row] for row in rows]
    return tabulate(cells, headings, "github", colalign=columns, disable_numparse=True)
