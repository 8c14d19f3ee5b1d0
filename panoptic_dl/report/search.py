"""A search: its best trial with its command, a table of all trials, and a picture."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from panoptic_dl.core.run_folder import RESULTS
from panoptic_dl.visualize.charts import BLUE, GRID, RED, REMARK, TEXT, YELLOW

COLUMNS = 3  # of panels, one a key
MAX_PANELS = 9  # for the keys that matter most
MAX_PRINTED = 10  # trials on the console; search.md has all


def report_search(folder: Path) -> str:
    """Write search.md and, once a trial has finished, search.png; return text for the console.

    Args:
        folder: of a search, with its `search.json`.
    """
    record = json.loads((folder / "search.json").read_text())
    trials = record["trials"]
    if record["best"] is None:
        text = f"No trial of {len(trials)} has finished"
        failed = next((trial for trial in trials if trial["error"]), None)
        if failed:
            text += (
                f". The first one to fail, {folder / failed['folder']}: {failed['error']}\n"
                "Failed trials stay failed: cure that and name another folder, sweep_dir=FOLDER"
            )
        (folder / "search.md").write_text(f"{text}\n\n{_table(trials, 'figure', record)}\n")
        return f"{text}\n"
    best = trials[record["best"]]
    metric = _metric_name(folder / best["folder"])
    _draw_search(record, folder / "search.png", metric)
    head = _head(record, best, metric)
    sign = -1 if record["direction"] == "maximize" else 1
    ranked = sorted(  # the best first, those without a value last
        trials, key=lambda t: (t["value"] is None, sign * (t["value"] or 0), t["number"])
    )
    (folder / "search.md").write_text(
        f"# {record['name']}\n\n{head}\n\n{_table(ranked, metric, record)}\n\n"
        "![search](search.png)\n"
    )
    more = len(trials[MAX_PRINTED:])
    return (
        f"\n{_table(ranked[:MAX_PRINTED], metric, record)}\n"
        + (f"(and {more} more in search.md)\n" if more else "")
        + f"\n{head}\nSaved {folder}/search.md, .png and .json, best.yaml\n"
    )


def short_names(keys: list[str]) -> dict[str, str]:
    """Keys by their last part, or as many parts as distinguish them."""
    short = {}
    for key in keys:
        parts = key.lstrip("+").split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum((other.lstrip("+") + ".").endswith(f"{name}.") for other in keys) == 1:
                break
        short[key] = name
    return short


def _head(record: Mapping[str, Any], best: Mapping[str, Any], metric: str) -> str:
    states = [trial["state"] for trial in record["trials"]]
    counts = ", ".join(
        f"{states.count(s)} {s}" for s in ("finished", "failed", "unfinished") if s in states
    )
    lines = [
        f"{len(states)} trials: {counts}.",
        f"Best {metric}: {best['value']:.2f}, trial {best['number']}.",
    ]
    first = record["trials"][0]
    if record["starts_with_own"] and first["value"] is not None and first is not best:
        lines[1] += f" The config's own values, trial 0: {first['value']:.2f}."
    if record["importance"]:
        names = short_names(list(record["space"]))
        shares = ", ".join(f"{names[k]} {100 * s:.0f} %" for k, s in record["importance"].items())
        lines.append(f"What moved it (PED-ANOVA, a hint with few trials): {shares}.")
    return "\n".join([*lines, f"To run it again: `{best['command']}`"])


def _table(trials: list[dict[str, Any]], metric: str, record: Mapping[str, Any]) -> str:
    names = short_names(list(record["space"]))
    rows = []
    for trial in trials:
        values = [trial["values"].get(key, "") for key in names]
        rows.append(
            [
                trial["number"],
                "" if trial["value"] is None else f"{trial['value']:.2f}",
                *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values),
                trial["error"] or ("" if trial["state"] == "finished" else trial["state"]),
            ]
        )
    headers = ["trial", metric, *names.values(), "what went wrong"]
    aligned = [*["right"] * (2 + len(names)), "left"]
    if not any(row[-1] for row in rows):
        headers, rows, aligned = headers[:-1], [row[:-1] for row in rows], aligned[:-1]
    return tabulate(rows, headers, "github", disable_numparse=True, colalign=aligned)


def _metric_name(run: Path) -> str:
    """The name of the metric in the results of a run, such as PQ."""
    try:
        return str(next(iter(json.loads((run / RESULTS).read_text())["metrics"])))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # not a run of ours
        return "figure"


def _draw_search(record: Mapping[str, Any], file: Path, metric: str) -> None:
    """Write a PNG.

    Above, the metric of each trial in its order, and the best so far; below, the same metric over
    the values of each key, later trials darker. Failed trials are marked at the lower edge.

    Args:
        record: what `search.json` holds; at least one trial has finished.
        metric: its name, such as PQ.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shares = record["importance"] or {}
    keys = sorted(record["space"], key=lambda key: -shares.get(key, 0.0))[:MAX_PANELS]
    names = short_names(list(record["space"]))
    columns = min(COLUMNS, max(len(keys), 1))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(
        figsize=(10, 3.3 + 2.75 * rows),
        dpi=110,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08, hspace=0.04),
    )
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.3, *[2.75] * rows])
    history = figure.add_subplot(grid[0, :])
    _draw_history(history, record, metric)
    limits = _limits(record)
    for i, key in enumerate(keys):
        axes = figure.add_subplot(grid[1 + i // columns, i % columns])
        _draw_slice(axes, record, key, names[key])
        axes.set_ylim(*limits)
        if i % columns:
            axes.tick_params(axis="y", labelleft=False)
        else:
            axes.set_ylabel(metric, fontsize=9, color=TEXT)
    history.set_ylim(*limits)
    figure.savefig(file)


def _draw_history(axes: Any, record: Mapping[str, Any], metric: str) -> None:
    finished = _finished(record)
    best = record["trials"][record["best"]]
    better = max if record["direction"] == "maximize" else min
    numbers = [trial["number"] for trial in finished]
    last = len(record["trials"]) - 1
    so_far = list(itertools.accumulate((trial["value"] for trial in finished), better))
    axes.step(
        [*numbers, last + 0.4],
        [*so_far, so_far[-1]],
        where="post",
        color=BLUE,
        linewidth=1.6,
        label="best so far",
        zorder=2,
    )
    _scatter(axes, record, lambda trial: trial["number"])
    first = record["trials"][0]
    if record["starts_with_own"] and first["value"] is not None:
        axes.axhline(first["value"], color=REMARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f"the config's own values, {first['value']:.1f}",
            (last + 0.4, first["value"]),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color=REMARK,
        )
    axes.set_title(
        f"{record['name']}   best {metric} {best['value']:.1f} in trial {best['number']}",
        loc="left",
        fontsize=12,
        color=TEXT,
        pad=12,
    )
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_xlabel("trial", fontsize=9, color=TEXT)
    axes.set_ylabel(metric, fontsize=9, color=TEXT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _plain(axes)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.005, 1.0),
        ncols=len(axes.get_legend_handles_labels()[1]),
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
        axes.set_xticks(range(len(places)), [c if len(c) <= 16 else c[:15] + "…" for c in places])
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
    axes.set_title(name, loc="left", fontsize=10, color=TEXT)
    if share is not None:
        axes.set_title(f"importance {100 * share:.0f} %", loc="right", fontsize=8, color=REMARK)
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
            place(best),
            best["value"],
            marker="*",
            s=190,
            color=YELLOW,
            edgecolors=TEXT,
            linewidths=0.7,
            zorder=4,
            label="the best",
        )
    places = [place(trial) for trial in record["trials"] if trial["state"] == "failed"]
    failed = [x for x in places if x is not None]
    if failed:
        axes.scatter(
            failed,
            [0.035] * len(failed),
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
    axes.spines["bottom"].set_color(REMARK)
    axes.tick_params(labelsize=8, colors=TEXT, length=0, which="both", pad=4)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)


def _limits(record: Mapping[str, Any]) -> tuple[float, float]:
    """Of the metric, with room below for failed trials and above for the star."""
    values = [trial["value"] for trial in _finished(record)]
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high), 1.0)
    failed = any(trial["state"] == "failed" for trial in record["trials"])
    return low - room * (0.16 if failed else 0.08), high + 0.1 * room


def _finished(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [trial for trial in record["trials"] if trial["value"] is not None]
