"""Which classes are taken for which: a matrix of the worst classes and a list of the worst pairs.

K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

INK, FAINT, RIGHT, WRONG = "#28282c", "#6e6e74", "#3566b0", "#c8453b"
CELL, PAIR = 0.34, 0.3  # inches: a cell of the matrix, a line of the list


def draw_confusions(
    counts: NDArray[np.int64],
    names: Sequence[str],
    file: Path,
    *,
    title: str,
    most: int = 30,
    listed: int = 15,
) -> None:
    """Write a PNG: of each true class, the percentage of its pixels by predicted class.

    Of more than `most` classes those with the most wrong pixels, true or predicted, are shown, in
    the order of their ids; a column takes together what was predicted of all others.

    Args:
        counts: (K, K + 1) pixels: rows true, columns predicted, the last column none.
        names: K names of classes.
        file: its folder is made when missing.
        title: above it all.
        most: rows at most.
        listed: pairs of classes in the list, those with the most wrong pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A pair of dollars would be a formula to matplotlib.
    names = [name.split("-merged")[0].replace("$", r"\$") for name in names]
    shown = worst_classes(counts, most)
    table, columns = _table(counts, names, shown)
    pairs = worst_pairs(counts, listed)

    # Inches around the matrix. Names of columns, at 60 degrees, are about 0.06 a letter high.
    left, right, bottom = 1.7, 5.3, 0.35
    top = 0.85 + 0.06 * max(len(name) for name in columns)
    size = (CELL * len(columns), CELL * len(shown))
    width = left + size[0] + right
    height = top + max(size[1], PAIR * len(pairs)) + bottom
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)

    def place(x: float, y: float, wide: float, high: float) -> tuple[float, float, float, float]:
        """A box by its upper left corner, in inches from that of the figure."""
        return x / width, 1 - (y + high) / height, wide / width, high / height

    matrix = figure.add_axes(place(left, top, *size))
    _draw_matrix(matrix, table, [names[index] for index in shown], columns)
    bars = figure.add_axes(place(width - 2.8, top, 1.4, PAIR * max(1, len(pairs))))
    _draw_pairs(bars, counts, names, pairs)

    right_pixels, total = int(np.trace(counts)), int(counts.sum())
    share = f"{100 * right_pixels / total:.1f} % of the pixels are right" if total else "no pixels"
    figure.text(
        *place(0.15, 0.3, 0, 0)[:2], f"{title}   {share}", fontsize=13, va="center", color=INK
    )
    legend = "Rows: pixels of a true class by predicted class, in percent; blue right, red wrong"
    if len(shown) < len(names):
        legend += f". The {len(shown)} of {len(names)} classes with the most wrong pixels"
    figure.text(*place(0.15, 0.58, 0, 0)[:2], legend, fontsize=9, va="center", color=FAINT)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def worst_classes(counts: NDArray[np.int64], most: int) -> list[int]:
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
    counts: NDArray[np.int64], names: Sequence[str], shown: list[int]
) -> tuple[NDArray[np.float64], list[str]]:
    """Percentages of rows, NaN in those without truth, and the names of columns."""
    columns = [names[index] for index in shown]
    parts = [counts[np.ix_(shown, shown)]]
    if len(shown) < len(names):
        others = [index for index in range(len(names)) if index not in set(shown)]
        parts.append(counts[np.ix_(shown, others)].sum(axis=1, keepdims=True))
        columns.append("all others")
    parts.append(counts[shown][:, -1:])
    columns.append("nothing")
    true = counts[shown].sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * np.concatenate(parts, axis=1) / true, columns


def _draw_matrix(
    axes: Any,
    table: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Cells in blue where right, in red where wrong, deeper by the root of the percentage."""
    from matplotlib.colors import to_rgb

    wrong, right = np.array(to_rgb(WRONG)), np.array(to_rgb(RIGHT))
    colors = np.broadcast_to(wrong, (*table.shape, 3)).copy()
    diagonal = np.arange(len(rows))
    colors[diagonal, diagonal] = right
    # Errors of a few percent are what one looks for; the root lifts them off the paper.
    depth = np.sqrt(np.nan_to_num(table) / 100)[..., None]
    picture = 1 - depth * (1 - colors)
    picture[np.isnan(table[:, 0])] = 0.93
    axes.imshow(picture, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(*table.shape):
        value = table[row, column]
        if value >= 0.5:
            ink = "white" if value > (45 if row == column else 35) else INK
            axes.text(
                *(column, row),
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color=ink,
            )
    for row in np.flatnonzero(np.isnan(table[:, 0])):
        middle = (len(columns) - 1) / 2
        axes.text(
            *(middle, row),
            "not in the truth",
            ha="center",
            va="center",
            fontsize=8,
            color=FAINT,
            style="italic",
        )
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
    axes.axvline(len(rows) - 0.5, color=INK, linewidth=1)  # the columns behind are no rows


def _draw_pairs(
    axes: Any, counts: NDArray[np.int64], names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> None:
    """Bars of the worst pairs, their share of all wrong pixels; beside, of the true class."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if not pairs:
        axes.text(0, 0.5, "no pixel is wrong", fontsize=9, color=FAINT, va="center")
        return
    predicted_names = [*names, "nothing"]
    wrong = int(_wrong(counts).sum())
    shares = [100 * int(counts[pair]) / wrong for pair in pairs]
    longest = max(shares)
    axes.barh(range(len(pairs)), shares, color=WRONG, height=0.62)
    # Columns, in lengths of the longest bar: names end at 0, the numbers of the class at 1.8.
    texts = [(-0.03, -1, "true as predicted", "right"), (1.8, -1, "of the true class", "right")]
    texts.append((0.07, -1, "of all wrong", "left"))
    for line, ((true, predicted), share) in enumerate(zip(pairs, shares, strict=True)):
        of_class = 100 * int(counts[true, predicted]) / int(counts[true].sum())
        texts += [
            (-0.03, line, f"{names[true]} as {predicted_names[predicted]}", "right"),
            (share / longest + 0.04, line, f"{share:.1f} %", "left"),
            (1.8, line, f"{of_class:.0f} %", "right"),
        ]
    for x, line, text, side in texts:
        size, ink = (8, FAINT) if line < 0 else (8.5, INK)
        axes.text(x * longest, line, text, ha=side, va="center", fontsize=size, color=ink)
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(0, longest)
