"""Which branch limits a model: a table, a sentence and bars.

An analysis is what mode=analyze saves: "combinations" are rows of "truth" (the names of the
branches that were replaced), "metrics" in percent, "gain" in PQ over the first row, the model.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from panoptic_dl.report.results import as_difference, as_text
from panoptic_dl.visualize.charts import BLUE, GRID, RED, YELLOW

BRANCHES = {"semantic": "semantic", "center": "centre", "offset": "offset"}  # and their headings
METRICS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")
SMALL = 0.05  # PQ that a table with one digit would not show

COLORS = {"semantic": BLUE, "center": YELLOW, "offset": RED}
BAR, MODEL_BAR, ALL_BAR, EMPTY = "#8fa3b8", "#3a4653", "#5f8f6b", "#dde2e7"


def with_gains(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row the "gain" in PQ over the first; the difference to the model."""
    model = rows[0]["metrics"]["PQ"]
    return [row | {"gain": row["metrics"]["PQ"] - model} for row in rows]


def analysis_text(analysis: Mapping[str, Any]) -> str:
    """Circumstances, table and conclusion."""
    void = ", which has no class where unlabelled" if analysis["unlabelled"] == "void" else ""
    return "\n".join(
        [
            f"{analysis['name']} on {analysis['dataset']} ({analysis['num_images']} images), "
            f"predictions replaced by the truth{void}:",
            analysis_table(analysis["combinations"]),
            conclusion(analysis["combinations"]),
        ]
    )


def analysis_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A combination a line, in Markdown: what is true in it, its metrics, the gain in PQ."""
    lines = []
    for row in rows:
        marks = ["truth" if branch in row["truth"] else "" for branch in BRANCHES]
        values = [as_text(row["metrics"][name]) for name in METRICS]
        lines.append([*marks, *values, as_difference(row["gain"]) if row["truth"] else ""])
    headings = [*BRANCHES.values(), *(name.replace("_", " ") for name in METRICS), "gain"]
    aligned = ["center"] * len(BRANCHES) + ["right"] * (len(METRICS) + 1)
    return tabulate(lines, headings, "github", disable_numparse=True, colalign=aligned)


def conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which branch gains most when it alone is replaced by ground truth."""
    gains = {row["truth"][0]: row["gain"] for row in rows if len(row["truth"]) == 1}
    if not all(math.isfinite(gain) for gain in gains.values()):
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
    _draw_marks(marks, rows)
    _draw_bars(bars, rows)
    bars.set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(
        f"{analysis['name']}: PQ where predictions are replaced by the truth",
        x=0.012,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    where = f"PQ in % on {analysis['dataset']} ({analysis['num_images']} images)"
    bars.set_xlabel(where, x=50 / 144, ha="center", fontsize=9)
    figure.savefig(file)


def _draw_marks(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(rows):
        true = [column for column, branch in enumerate(BRANCHES) if branch in row["truth"]]
        if true:
            axes.plot([true[0], true[-1]], [place, place], color="#9aa5b1", lw=1.6, zorder=1)
        for column, branch in enumerate(BRANCHES):
            color = COLORS[branch] if column in true else EMPTY
            axes.scatter(column, place, s=105, color=color, zorder=2)
    axes.set_xlim(-0.6, len(BRANCHES) - 0.4)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(BRANCHES)), [f"true\n{name}" for name in BRANCHES.values()])
    for tick, color in zip(axes.get_xticklabels(), COLORS.values(), strict=True):
        tick.set(color=color, fontsize=9, fontweight="bold")
    axes.tick_params(length=0, labelleft=False)
    axes.spines[:].set_visible(False)


def _draw_bars(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(rows):
        pq = row["metrics"]["PQ"]
        if not math.isfinite(pq):
            axes.annotate("n/a", (0, place), va="center", fontsize=9)
            continue
        color = MODEL_BAR
        if row["truth"]:
            color = COLORS[row["truth"][0]] if len(row["truth"]) == 1 else BAR
        if len(row["truth"]) == len(BRANCHES):
            color = ALL_BAR
        axes.barh(place, pq, color=color, height=0.62)
        text = f"{pq:.1f}" + (
            f"  ({as_difference(row['gain'])})" if row["truth"] else "  the model"
        )
        axes.annotate(
            text, (pq, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9
        )
    for x, name, heading in ((132, "PQ_th", "things"), (143, "PQ_st", "stuff")):
        style = {"ha": "right", "va": "center", "fontsize": 9, "color": "#5b6672"}
        axes.text(x, -0.78, f"PQ of\n{heading}", **style | {"va": "bottom"})
        for place, row in enumerate(rows):
            axes.text(x, place, as_text(row["metrics"][name]), **style)
    model = rows[0]["metrics"]["PQ"]
    if math.isfinite(model):
        axes.axvline(model, color=MODEL_BAR, lw=1, ls=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, 144)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="x", length=0, labelsize=9)
    axes.tick_params(axis="y", length=0, labelleft=False)
