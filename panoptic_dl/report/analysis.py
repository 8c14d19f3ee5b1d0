"""Which branch limits a model: a table, a sentence and bars.

An analysis is what mode=analyze saves: "combinations" are rows of "truth" (the names of the
branches that were replaced), "metrics" in percent, "gain" in PQ over the first row, the model.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_dl.report.text import as_difference, as_text, markdown_table, metric_name
from panoptic_dl.visualize.charts import BLUE, GRID, RED, YELLOW

BRANCHES = {"semantic": "semantic", "center": "center", "offset": "offset"}  # and their headings
METRICS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")
SMALL = 0.05  # PQ that a table with one digit would not show

COLORS = {"semantic": BLUE, "center": YELLOW, "offset": RED}
BAR, MODEL_BAR, ALL_BAR, EMPTY = "#8fa3b8", "#3a4653", "#5f8f6b", "#dde2e7"


def analysis_text(analysis: Mapping[str, Any]) -> str:
    """Circumstances, table and conclusion."""
    void = ", which has no class where unlabelled" if analysis["unlabelled"] == "void" else ""
    return "\n".join(
        [
            f"{analysis['name']} on {analysis['dataset']} ({analysis['num_images']} images), "
            f"predictions replaced by the truth{void}:",
            _table(analysis["combinations"]),
            _conclusion(analysis["combinations"]),
        ]
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A combination a line: what is ground truth in it, its metrics, the gain in PQ."""
    lines = []
    for row in rows:
        marks = ["truth" if branch in row["truth"] else "" for branch in BRANCHES]
        values = [as_text(row["metrics"][name]) for name in METRICS]
        lines.append([*marks, *values, as_difference(row["gain"]) if row["truth"] else ""])
    headings = [*BRANCHES.values(), *map(metric_name, METRICS), "gain"]
    return markdown_table(headings, lines, "c" * len(BRANCHES) + "r" * (len(METRICS) + 1))


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which branch gains most when it alone is replaced by ground truth."""
    gains = {row["truth"][0]: row["gain"] for row in rows if len(row["truth"]) == 1}
    if not all(map(math.isfinite, gains.values())):
        return "PQ cannot be computed: no image has a segment."
    ranked = sorted(gains, key=lambda branch: -gains[branch])
    first, second = ranked[0], ranked[1]
    listed = ", ".join(f"{BRANCHES[branch]} {as_difference(gains[branch])}" for branch in ranked)
    if gains[first] < SMALL:
        text = f"No branch's truth alone gains PQ ({listed}): look at the pairs."
    elif gains[first] - gains[second] < SMALL:
        text = f"True {BRANCHES[first]} and true {BRANCHES[second]} alone gain alike: {listed} PQ."
    else:
        text = (
            f"The {BRANCHES[first]} branch limits this model: its truth alone gains most "
            f"({listed} PQ)."
        )
    top = rows[-1]["metrics"]["PQ"]
    if top < 100 - SMALL:
        text += f" With all three true PQ is {top:.1f}; docs/analysis.md says what takes the rest."
    return text


def draw_analysis(analysis: Mapping[str, Any], file: Path) -> None:
    """Write a PNG: bars of PQ, each with marks for the branches replaced by ground truth."""
    from matplotlib.figure import Figure

    rows = analysis["combinations"]
    figure = Figure(figsize=(10, 5.2), dpi=130, layout="constrained")
    marks, bars = figure.subplots(1, 2, sharey=True, width_ratios=(1, 4))
    for axes in (marks, bars):
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelleft=False, labelsize=9)
    _draw_marks(marks, rows)
    _draw_bars(bars, rows)
    bars.set_ylim(len(rows) - 0.4, -0.6)
    title = f"{analysis['name']}: PQ where predictions are replaced by the truth"
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    where = f"PQ in % on {analysis['dataset']} ({analysis['num_images']} images)"
    bars.set_xlabel(where, x=50 / 144, ha="center", fontsize=9)
    figure.savefig(file)


def _draw_marks(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = range(len(BRANCHES))
    for place, row in enumerate(rows):
        true = [column for column, branch in enumerate(BRANCHES) if branch in row["truth"]]
        if true:
            axes.plot([true[0], true[-1]], [place, place], color="#9aa5b1", lw=1.6, zorder=1)
        colors = [COLORS[branch] if branch in row["truth"] else EMPTY for branch in BRANCHES]
        axes.scatter(columns, [place] * len(columns), s=105, color=colors, zorder=2)
    axes.set_xlim(-0.6, len(BRANCHES) - 0.4)
    axes.xaxis.tick_top()
    axes.set_xticks(columns, [f"true\n{name}" for name in BRANCHES.values()])
    for tick, color in zip(axes.get_xticklabels(), COLORS.values(), strict=True):
        tick.set(color=color, fontweight="bold")


def _draw_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    colors = [MODEL_BAR, *(COLORS.get("".join(row["truth"]), BAR) for row in rows[1:-1]), ALL_BAR]
    values = [row["metrics"]["PQ"] for row in rows]
    axes.barh(range(len(rows)), values, color=colors, height=0.62)
    gray = {"ha": "right", "fontsize": 9, "color": "#5b6672"}
    for place, (row, pq) in enumerate(zip(rows, values, strict=True)):
        gain = f"({as_difference(row['gain'])})" if row["truth"] else "the model"
        text, end = (f"{pq:.1f}  {gain}", pq) if math.isfinite(pq) else ("n/a", 0)
        offset: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points"}
        axes.annotate(text, (end, place), **offset, va="center", fontsize=9)
        for x, name in ((132, "PQ_th"), (143, "PQ_st")):
            axes.text(x, place, as_text(row["metrics"][name]), va="center", **gray)
    for x, heading in ((132, "things"), (143, "stuff")):
        axes.text(x, -0.78, f"PQ of\n{heading}", va="bottom", **gray)
    if math.isfinite(values[0]):
        axes.axvline(values[0], color=MODEL_BAR, lw=1, ls=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, 144)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
