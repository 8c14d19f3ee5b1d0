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

BRANCHES = ("semantic", "center", "offset")
METRICS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")
SMALL = 0.05  # PQ that a table with one digit would not show

COLORS = {"semantic": BLUE, "center": YELLOW, "offset": RED}
BAR, MODEL_BAR, ALL_BAR = "#8fa3b8", "#3a4653", "#5f8f6b"


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
    headings = [*BRANCHES, *map(metric_name, METRICS), "gain"]
    return markdown_table(headings, lines, "c" * len(BRANCHES) + "r" * (len(METRICS) + 1))


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which branch gains most when it alone is replaced by ground truth."""
    gains = {row["truth"][0]: row["gain"] for row in rows if len(row["truth"]) == 1}
    if not all(map(math.isfinite, gains.values())):
        return "PQ cannot be computed: no image has a segment."
    ranked = sorted(gains, key=lambda branch: -gains[branch])
    first, second = ranked[0], ranked[1]
    listed = ", ".join(f"{branch} {as_difference(gains[branch])}" for branch in ranked)
    if gains[first] < SMALL:
        text = f"No branch's truth alone gains PQ ({listed}): look at the pairs."
    elif gains[first] - gains[second] < SMALL:
        text = f"True {first} and true {second} alone gain alike: {listed} PQ."
    else:
        text = f"The {first} branch limits this model: its truth alone gains most ({listed} PQ)."
    top = rows[-1]["metrics"]["PQ"]
    if top < 100 - SMALL:
        text += f" With all three true PQ is {top:.1f}; docs/analysis.md says what takes the rest."
    return text


def draw_analysis(analysis: Mapping[str, Any], file: Path) -> None:
    """Write a PNG: bars of PQ, each named by the branches that ground truth replaces."""
    from matplotlib.figure import Figure

    rows = analysis["combinations"]
    values = [row["metrics"]["PQ"] for row in rows]
    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    colors = [MODEL_BAR, *(COLORS.get("".join(row["truth"]), BAR) for row in rows[1:-1]), ALL_BAR]
    lengths = [pq if math.isfinite(pq) else 0 for pq in values]
    bars = axes.barh(range(len(rows)), lengths, color=colors, height=0.62)
    texts = []
    for row, pq in zip(rows, values, strict=True):
        things, stuff = (as_text(row["metrics"][name]) for name in ("PQ_th", "PQ_st"))
        gain = f" ({as_difference(row['gain'])})" if row["truth"] else ""
        texts.append(f"{as_text(pq)}{gain}: things {things}, stuff {stuff}")
    axes.bar_label(bars, texts, padding=5, fontsize=9)
    names = [f"true {' + '.join(row['truth'])}" if row["truth"] else "the model" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(lengths[0], color=MODEL_BAR, lw=1, ls=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, 140)  # room for the texts
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    title = f"{analysis['name']}: PQ where predictions are replaced by the truth"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    where = f"PQ in % on {analysis['dataset']} ({analysis['num_images']} images)"
    axes.set_xlabel(where, fontsize=9)
    figure.savefig(file)
