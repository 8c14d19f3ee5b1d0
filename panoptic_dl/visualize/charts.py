"""Charts of classes: bars of PQ or IoU, and confusions as a matrix with a list of the worst pairs.

K classes.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.visualize.style import FAINT, INK

TEXT, REMARK = ("#{:02x}{:02x}{:02x}".format(*color) for color in (INK, FAINT))
BLUE, YELLOW, RED, GRID = "#3566b0", "#d9a441", "#c8453b", "#e3e6ea"
PER_COLUMN = 45  # bars
ROW, WIDTH = 0.2, 7.0  # inches, of a bar and of a column
MOST_ROWS, LISTED_PAIRS = 30, 15  # classes of the matrix, pairs in the list of the worst
CELL, PAIR = 0.34, 0.3  # inches, of a cell of the matrix and of a line of the list
MARKERS = ("o", "D", "s")
HOLLOW: dict[str, Any] = {"s": 15, "facecolors": "white", "edgecolors": TEXT, "linewidths": 0.8}
HOLLOW |= {"zorder": 3, "clip_on": False}


def draw_class_bars(
    values: Mapping[str, float],
    file: Path,
    *,
    title: str,
    measure: str,
    things: Collection[str] | None = None,
    others: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write a PNG with horizontal bars, in several columns where there are many.

    Args:
        values: percentage of each class; NaN where the ground truth lacks it: such classes have no
            bar, but are named, and do not count in the mean that the dashed line shows.
        title: above it all; the mean is written behind it.
        measure: what the values are, as "PQ".
        things: names of the classes with instances, which have another color; None: no colors.
        others: further measures to be marked on the bars, as "SQ": percentage of each class.
    """
    present = {name: value for name, value in values.items() if not math.isnan(value)}
    ordered = sorted(present, key=lambda name: (-present[name], name))
    mean = sum(present.values()) / len(present) if present else math.nan
    num_columns = max(1, math.ceil(len(ordered) / PER_COLUMN))
    rows = max(1, math.ceil(len(ordered) / num_columns))
    width = WIDTH * num_columns
    absent = ", ".join(_short(name) for name in values if name not in present)
    num_absent = len(values) - len(present)
    note = fill(f"Not in the ground truth ({num_absent} classes): {absent}", int(16 * width))
    height = 1.3 + ROW * rows + (0.16 * (note.count("\n") + 1) if absent else 0)

    bars: dict[str, tuple[str, Callable[[str], bool]]] = {measure: (BLUE, present.__contains__)}
    if things is not None:
        bars = {
            f"{measure} of things": (BLUE, lambda name: name in things),
            f"{measure} of stuff": (YELLOW, lambda name: name not in things),
        }
    figure = _new_figure(width, height, layout="constrained")
    columns = figure.subplots(1, num_columns, squeeze=False)[0]
    for index, axes in enumerate(columns):
        names = ordered[index * rows : (index + 1) * rows]
        places = range(len(names))
        for label, (color, wanted) in bars.items():
            lengths = [present[name] if wanted(name) else math.nan for name in names]
            axes.barh(places, lengths, color=color, height=0.72, label=label)
        for marker, (other, of_classes) in zip(MARKERS, (others or {}).items(), strict=False):
            shares = [of_classes.get(name, math.nan) for name in names]
            axes.scatter(shares, places, marker=marker, label=other, **HOLLOW)
        axes.axvline(mean, color=TEXT, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2, label="mean")
        for place, name in enumerate(names):
            text = f"{present[name]:.1f}"
            axes.text(104, place, text, fontsize=8, va="center", color=TEXT)
        axes.set_yticks(places, [_short(name) for name in names], fontsize=8)
        axes.set_ylim(rows - 0.4, -0.6)  # a last column that is not full keeps the height of bars
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"{measure} in percent", fontsize=9)
        axes.tick_params(axis="x", labelsize=8)
        axes.tick_params(axis="y", length=0, pad=6)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.grid(axis="x", color=GRID)
        axes.set_axisbelow(True)
    mean_text = f"mean {measure} {mean:.1f}" if present else "no class is in the ground truth"
    heading = f"{title}   {mean_text} ({len(present)} classes)"
    found = dict(zip(*reversed(columns[0].get_legend_handles_labels()), strict=True))
    labels = [*bars, *(others or {}), "mean"]
    look: dict[str, Any] = {"title_fontproperties": {"size": 12}, "alignment": "left"}
    look |= {"loc": "outside upper left", "ncols": len(labels), "frameon": False, "fontsize": 9}
    figure.legend([found[label] for label in labels], labels, title=heading, **look)
    if absent:
        look = {"fontsize": 8, "color": REMARK, "multialignment": "left"}
        figure.supxlabel(note, x=0.15 / width, ha="left", **look)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _new_figure(width: float, height: float, layout: Any = None) -> Any:
    """A figure of this size in inches, drawn without a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=130, layout=layout)


def _short(name: str) -> str:
    """COCO's merged classes without their suffix; dollars are escaped, which begin a formula."""
    return name.split("-merged")[0].replace("$", r"\$")


def draw_confusions(
    counts: NDArray[np.int64], names: Sequence[str], file: Path, *, title: str
) -> None:
    """Write a PNG: of each true class, the percentage of its pixels by predicted class.

    Of more than `MOST_ROWS` classes those with the most wrong pixels, true or predicted, are shown,
    in the order of their ids; a column sums what was predicted of all others.

    `counts` (K, K + 1) are pixels: rows true, columns predicted, the last column none.
    """
    names = [_short(name) for name in names]
    shown = _worst_classes(counts, MOST_ROWS)
    rows = [index for index in shown if counts[index].any()] or shown
    table, columns = _table(counts, names, rows, shown)
    pairs = worst_pairs(counts, LISTED_PAIRS)

    # Inches around the matrix. Names of columns, at 60 degrees, are about 0.06 a letter high.
    left, right, bottom = 1.7, 5.3, 0.35
    top = 0.85 + 0.06 * max(len(name) for name in columns)
    size = (CELL * len(columns), CELL * len(rows))
    width = left + size[0] + right
    height = top + max(size[1], PAIR * len(pairs)) + bottom
    figure = _new_figure(width, height)

    def place(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        """A box by its upper left corner, in inches from that of the figure."""
        return x / width, 1 - (y + high) / height, wide / width, high / height

    matrix = figure.add_axes(place(left, top, *size))
    _draw_matrix(matrix, table, [names[index] for index in rows], columns)
    bars = figure.add_axes(place(width - 2.8, top, 1.4, PAIR * max(1, len(pairs))))
    _draw_pairs(bars, counts, names, pairs)

    right_pixels, total = int(np.trace(counts)), int(counts.sum())
    share = f"{100 * right_pixels / total:.1f} % of the pixels are right" if total else "no pixels"
    x, y = place(0.15, 0.3, 0, 0)[:2]
    figure.text(x, y, f"{title}   {share}", fontsize=13, va="center", color=TEXT)
    legend = "Rows: pixels of a true class by predicted class, in percent; blue right, red wrong"
    if len(shown) < len(names):
        legend += f". The {len(shown)} of {len(names)} classes with the most wrong pixels"
    if len(rows) < len(shown):
        legend += f"; {len(shown) - len(rows)} classes without ground truth have no row"
    x, y = place(0.15, 0.58, 0, 0)[:2]
    figure.text(x, y, legend, fontsize=9, va="center", color=REMARK)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _worst_classes(counts: NDArray[np.int64], most: int) -> list[int]:
    """At most `most` classes with the most wrong pixels, true or predicted, by their ids."""
    wrong = _wrong(counts)
    pixels = wrong.sum(axis=1) + wrong[:, :-1].sum(axis=0)
    return sorted(np.argsort(-pixels, kind="stable")[:most].tolist())


def worst_pairs(counts: NDArray[np.int64], number: int) -> list[tuple[int, int]]:
    """At most `number` pairs of a true and another predicted class (K: none), the worst first."""
    wrong = _wrong(counts)
    places = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = [divmod(int(place), wrong.shape[1]) for place in places]
    return [pair for pair in pairs if wrong[pair]]


def _wrong(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    return wrong


def _table(
    counts: NDArray[np.int64], names: Sequence[str], rows: list[int], shown: list[int]
) -> tuple[NDArray[np.float64], list[str]]:
    """Percentages of rows, and the names of columns: rows, others that are predicted, the rest."""
    predicted = [i for i in shown if i not in rows and counts[:, i].any()]
    columns = [names[index] for index in (*rows, *predicted)]
    parts = [counts[np.ix_(rows, (*rows, *predicted))]]
    if len(shown) < len(names):
        others = [index for index in range(len(names)) if index not in set(shown)]
        parts.append(counts[np.ix_(rows, others)].sum(axis=1, keepdims=True))
        columns.append("all others")
    parts.append(counts[rows][:, -1:])
    columns.append("nothing")
    true = counts[rows].sum(axis=1, keepdims=True)
    return 100 * np.concatenate(parts, axis=1) / np.maximum(true, 1), columns


def _draw_matrix(
    axes: Any, table: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]
) -> None:
    """Cells in blue where right, in red where wrong, deeper by the root of the percentage."""
    from matplotlib.colors import to_rgb

    wrong, right = np.array(to_rgb(RED)), np.array(to_rgb(BLUE))
    colors = np.broadcast_to(wrong, (*table.shape, 3)).copy()
    diagonal = np.arange(len(rows))
    colors[diagonal, diagonal] = right
    # Errors of a few percent are what one looks for; the root lifts them off the paper.
    depth = np.sqrt(table / 100)[..., None]
    picture = 1 - depth * (1 - colors)
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    centered: dict[str, Any] = {"ha": "center", "va": "center"}
    for row, column in np.ndindex(*table.shape):
        value = table[row, column]
        if value >= 0.5:
            ink = "white" if value > (45 if row == column else 35) else TEXT
            axes.text(column, row, f"{value:.0f}", fontsize=7.5, color=ink, **centered)
    axes.set_xticks(
        range(len(columns)), columns, fontsize=8, rotation=60, ha="left", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=3)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    axes.axvline(len(rows) - 0.5, color=TEXT, linewidth=1)  # the columns behind are no rows


def _draw_pairs(
    axes: Any, counts: NDArray[np.int64], names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> None:
    """Bars of the worst pairs, their share of all wrong pixels; next to it, of the true class."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if not pairs:
        axes.text(0, 0.5, "no pixel is wrong", fontsize=9, color=REMARK, va="center")
        return
    wrong = int(_wrong(counts).sum())
    shares = [100 * int(counts[pair]) / wrong for pair in pairs]
    of_class = [100 * int(counts[pair]) / int(counts[pair[0]].sum()) for pair in pairs]
    bars = axes.barh(range(len(pairs)), shares, color=RED, height=0.62)
    texts = [f"{share:.1f} %  ({part:.0f} %)" for share, part in zip(shares, of_class, strict=True)]
    axes.bar_label(bars, texts, padding=4, fontsize=8.5, color=TEXT)
    predicted_names = [*names, "nothing"]
    labels = [f"{names[true]} as {predicted_names[predicted]}" for true, predicted in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8.5, color=TEXT)
    axes.tick_params(length=0, pad=3)
    heading = "of all wrong pixels (of the true class)"
    axes.set_title(heading, fontsize=8, color=REMARK, loc="left")
    axes.set_ylim(len(pairs) - 0.5, -0.5)
