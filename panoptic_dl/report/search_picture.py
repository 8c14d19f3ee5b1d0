"""A search in one picture: figures by trial, and by each value that was searched."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLUE, RED, GOLD, INK, FAINT, GRID = "#3566b0", "#c8453b", "#d9a441", "#28282c", "#6e6e74", "#e3e6ea"
COLUMNS = 3  # of panels, one a key
MOST = 9  # keys with a panel: those that matter most


def draw_search(record: Mapping[str, Any], file: Path, figure_name: str) -> None:
    """Write a PNG.

    Above, the figure of each trial in its order, and the best so far; below, the same figures over
    the values of each key, later trials darker. Failed trials are marked at the lower edge.

    Args:
        record: what `search.json` holds; at least one trial has finished.
        file: of the picture.
        figure_name: such as PQ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from .search import short_names

    keys = _keys(record)
    names = short_names(list(record["space"]))
    columns = min(COLUMNS, max(len(keys), 1))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(
        figsize=(10, 3.3 + 2.75 * rows),
        dpi=110,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, hspace=0.04),
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.3, *[2.75] * rows])
    history = figure.add_subplot(grid[0, :])
    _draw_history(history, record, figure_name)
    limits = _limits(record)
    for i, key in enumerate(keys):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        _draw_slice(axes, record, key, names[key])
        axes.set_ylim(*limits)
        if i % columns:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel(figure_name, fontsize=9, color=INK)
    history.set_ylim(*limits)
    figure.savefig(file)


def _draw_history(axes: Any, record: Mapping[str, Any], figure_name: str) -> None:
    finished = _finished(record)
    best = record["trials"][record["best"]]
    better = max if record["direction"] == "maximize" else min
    numbers = [trial["number"] for trial in finished]
    last = len(record["trials"]) - 1
    so_far = [finished[0]["value"]]
    for trial in finished[1:]:
        so_far.append(better(so_far[-1], trial["value"]))
    axes.step(
        *([*numbers, last + 0.4], [*so_far, so_far[-1]]),
        where="post",
        color=BLUE,
        linewidth=1.6,
        label="best so far",
        zorder=2,
    )
    _scatter(axes, record, lambda trial: trial["number"])
    first = record["trials"][0]
    if record["starts_with_own"] and first["value"] is not None:
        axes.axhline(first["value"], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"the config's own values, {first['value']:.1f}",
            (last + 0.4, first["value"]),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=FAINT,
        )
    axes.set_title(
        f"{record['name']}   best {figure_name} {best['value']:.1f} in trial {best['number']}",
        loc="left",
        fontsize=12,
        color=INK,
        pad=12,
    )
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_xlabel("trial", fontsize=9, color=INK)
    axes.set_ylabel(figure_name, fontsize=9, color=INK)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _plain(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1.005, 1.0),
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def _draw_slice(axes: Any, record: Mapping[str, Any], key: str, name: str) -> None:
    drawn_from = record["space"][key]
    if "choices" in drawn_from:
        places = {choice: place for place, choice in enumerate(drawn_from["choices"])}
        _scatter(axes, record, lambda trial: places.get(trial["values"].get(key)))
        axes.set_xticks(range(len(places)), [_cut(choice) for choice in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
    else:
        _scatter(axes, record, lambda trial: trial["values"].get(key))
        low, high = drawn_from["low"], drawn_from["high"]
        if drawn_from["log"]:
            axes.set_xscale("log")
            room = (high / low) ** 0.04
            axes.set_xlim(low / room, high * room)
        else:
            room = 0.04 * (high - low) or 0.5
            axes.set_xlim(low - room, high + room)
    share = (record["importance"] or {}).get(key)
    axes.set_title(name, loc="left", fontsize=10, color=INK)
    if share is not None:
        axes.set_title(f"importance {100 * share:.0f} %", loc="right", fontsize=8, color=FAINT)
    _plain(axes)


def _scatter(axes: Any, record: Mapping[str, Any], place: Any) -> None:
    """Finished trials as dots, the later the darker, the best as a star, failed ones as crosses."""
    from matplotlib.colors import LinearSegmentedColormap

    finished = [trial for trial in _finished(record) if place(trial) is not None]
    axes.scatter(
        [place(trial) for trial in finished],
        [trial["value"] for trial in finished],
        c=[trial["number"] for trial in finished],
        cmap=LinearSegmentedColormap.from_list("order", ["#c3d3ea", "#1f3f73"]),
        vmin=0,
        vmax=max(len(record["trials"]) - 1, 1),
        s=34,
        edgecolors="white",
        linewidths=0.7,
        zorder=3,
        label="a trial (later ones darker)",
    )
    best = record["trials"][record["best"]]
    if place(best) is not None:
        axes.scatter(
            *([place(best)], [best["value"]]),
            marker="*",
            s=190,
            color=GOLD,
            edgecolors=INK,
            linewidths=0.7,
            zorder=4,
            label="the best",
        )
    failed = [place(t) for t in record["trials"] if t["state"] == "failed"]
    failed = [where for where in failed if where is not None]
    if failed:
        axes.scatter(
            *(failed, [0.035] * len(failed)),
            transform=axes.get_xaxis_transform(),
            marker="x",
            s=26,
            color=RED,
            linewidths=1.4,
            zorder=3,
            label="failed",
        )


def _plain(axes: Any) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(labelsize=8, colors=INK, length=0, which="both", pad=4)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)


def _limits(record: Mapping[str, Any]) -> tuple[float, float]:
    """Of the figures, with room below for failed trials and above for the star."""
    values = [trial["value"] for trial in _finished(record)]
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high), 1.0)
    failed = any(trial["state"] == "failed" for trial in record["trials"])
    return low - room * (0.16 if failed else 0.08), high + 0.1 * room


def _keys(record: Mapping[str, Any]) -> list[str]:
    """Searched keys, the ones that matter most first; at most `MOST`."""
    shares = record["importance"] or {}
    return sorted(record["space"], key=lambda key: -shares.get(key, 0.0))[:MOST]


def _finished(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in record["trials"] if trial["value"] is not None]


def _cut(choice: str) -> str:
    return choice if len(choice) <= 16 else choice[:15] + "…"
