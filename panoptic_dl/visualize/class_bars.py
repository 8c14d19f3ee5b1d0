"""A bar for each class: PQ with SQ and RQ, or IoU, from the best class to the worst."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

THING, STUFF, INK, FAINT = "#3566b0", "#d9a441", "#28282c", "#6e6e74"
PER_COLUMN = 45  # bars
ROW, WIDTH = 0.2, 7.0  # inches, of a bar and of a column
MARKERS = ("o", "D", "s")


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
        values: percentage of each class; NaN where it is not in the truth: such classes have no
            bar, but are named, and do not count in the mean that the dashed line shows.
        file: its folder is made when missing.
        title: above it all; the mean is written behind it.
        measure: what the values are, as "PQ".
        things: names of the classes with instances, to be told apart by colour; None: no colours.
        others: further measures to be marked on the bars, as "SQ": percentage of each class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = {name: value for name, value in values.items() if not math.isnan(value)}
    ordered = sorted(present, key=lambda name: (-present[name], name))
    absent = [name for name in values if name not in present]
    mean = sum(present.values()) / len(present) if present else math.nan
    columns = max(1, math.ceil(len(ordered) / PER_COLUMN))
    rows = max(1, math.ceil(len(ordered) / columns))
    width = WIDTH * columns
    note = _note(absent, int(16 * width))

    head, foot = 0.95, 0.62 + 0.16 * (note.count("\n") + 1 if note else 0)  # inches
    height = head + ROW * rows + foot
    figure = Figure(figsize=(width, height), dpi=130)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, columns, squeeze=False)[0]
    figure.subplots_adjust(
        left=1.75 / width,
        right=1 - 0.55 / width,
        bottom=foot / height,
        top=1 - head / height,
        wspace=2.3 / (WIDTH - 2.3),
    )
    for column, axes in enumerate(all_axes):
        names = ordered[column * rows : (column + 1) * rows]
        _draw_column(axes, names, present, things, others or {}, mean)
        axes.set_ylim(rows - 0.4, -0.6)  # a last column that is not full keeps the height of bars
        axes.set_xlabel(f"{measure} in percent", fontsize=9)
    mean_text = f"mean {measure} {mean:.1f}" if present else "no class is in the truth"
    figure.text(
        *(0.15 / width, 1 - 0.3 / height),
        f"{title}   {mean_text} ({len(present)} classes)",
        fontsize=12,
        va="center",
        color=INK,
    )
    handles = _handles(things, others or {}, measure)
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(0.05 / width, 1 - 0.63 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    if note:
        figure.text(0.15 / width, 0.1 / height, note, fontsize=8, va="bottom", color=FAINT)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


def _draw_column(
    axes: Any,
    names: list[str],
    values: Mapping[str, float],
    things: Collection[str] | None,
    others: Mapping[str, Mapping[str, float]],
    mean: float,
) -> None:
    places = range(len(names))
    colors = [THING if things is None or name in things else STUFF for name in names]
    axes.barh(places, [values[name] for name in names], color=colors, height=0.72)
    for marker, of_classes in zip(MARKERS, others.values(), strict=False):
        axes.scatter(
            [of_classes.get(name, math.nan) for name in names],
            places,
            marker=marker,
            s=15,
            facecolors="white",
            edgecolors=INK,
            linewidths=0.8,
            zorder=3,
            clip_on=False,
        )
    if not math.isnan(mean):
        axes.axvline(mean, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=2)
    for place, name in enumerate(names):
        axes.text(104, place, f"{values[name]:.1f}", fontsize=8, va="center", color=INK)
    axes.set_yticks(places, [_short(name) for name in names], fontsize=8)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.grid(axis="x", color="#e3e6ea")
    axes.set_axisbelow(True)


def _handles(
    things: Collection[str] | None, others: Mapping[str, Mapping[str, float]], measure: str
) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=THING, label=measure)]
    if things is not None:
        handles = [
            Patch(color=THING, label=f"{measure} of things"),
            Patch(color=STUFF, label=f"{measure} of stuff"),
        ]
    for marker, name in zip(MARKERS, others, strict=False):
        handles.append(
            Line2D(
                *([], []),
                linestyle="none",
                marker=marker,
                markersize=4,
                markerfacecolor="white",
                markeredgecolor=INK,
                label=name,
            )
        )
    handles.append(Line2D([], [], color=INK, linestyle=(0, (4, 3)), linewidth=0.9, label="mean"))
    return handles


def _note(absent: list[str], width: int) -> str:
    if not absent:
        return ""
    names = ", ".join(_short(name) for name in absent)
    return fill(f"Not in the truth ({len(absent)} classes): {names}", width)


def _short(name: str) -> str:
    """COCO's merged classes without their suffix, as on pictures; matplotlib sees no formula."""
    return name.split("-merged")[0].replace("$", r"\$")
