"""A search: its best trial with its command, a table of all trials, and a picture.

A record is what a search keeps in search.json: see `panoptic_dl.sweeps.study.Study.record`.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from panoptic_dl.core.files import read_json_object, write_text
from panoptic_dl.core.run_folder import RESULTS
from panoptic_dl.report.text import markdown_table, short_names
from panoptic_dl.visualize.charts import BLUE, GRID, RED, REMARK, TEXT, YELLOW

COLUMNS = 3  # of panels, one a key
MAX_PANELS = 9  # for the keys that matter most
MAX_PRINTED = 10  # trials on the console; search.md has all

Record = Mapping[str, Any]


def report_search(folder: Path) -> str:
    """Write search.md and, once a trial has finished, search.png; return text for the console."""
    record = read_json_object(folder / "search.json")
    trials = record["trials"]
    if record["best"] is None:
        text = f"No trial of {len(trials)} has finished"
        failed = next((trial for trial in trials if trial["error"]), None)
        if failed:
            text += (
                f". The first one to fail, {folder / failed['folder']}: {failed['error']}\n"
                "Failed trials stay failed: fix that and name another folder, sweep_dir=FOLDER"
            )
        write_text(folder / "search.md", f"{text}\n\n{_table(trials, 'metric', record)}\n")
        return f"{text}\n"
    best = trials[record["best"]]
    file = folder / best["folder"] / RESULTS
    results = read_json_object(file) if file.is_file() else {}
    metric = next(iter(results.get("metrics", {})), "metric")  # the first one, such as PQ
    _draw_search(record, folder / "search.png", metric)
    head = _head(record, best, metric)
    sign = -1 if record["direction"] == "maximize" else 1
    ranked = sorted(  # the best first, those without a value last
        trials, key=lambda t: (t["value"] is None, sign * (t["value"] or 0), t["number"])
    )
    write_text(
        folder / "search.md",
        f"# {record['name']}\n\n{head}\n\n{_table(ranked, metric, record)}\n\n"
        "![search](search.png)\n",
    )
    more = len(trials[MAX_PRINTED:])
    return (
        f"\n{_table(ranked[:MAX_PRINTED], metric, record)}\n"
        + (f"(and {more} more in search.md)\n" if more else "")
        + f"\n{head}\nSaved {folder}/search.md, .png and .json, best.yaml\n"
    )


def _short_keys(record: Record) -> dict[str, str]:
    keys = list(record["space"])
    shortened = short_names([key.lstrip("+") for key in keys], ".")
    return dict(zip(keys, shortened.values(), strict=True))


def _head(record: Record, best: Mapping[str, Any], metric: str) -> str:
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
        names = _short_keys(record)
        shares = ", ".join(f"{names[k]} {100 * s:.0f} %" for k, s in record["importance"].items())
        lines.append(f"What moved it (PED-ANOVA, a hint with few trials): {shares}.")
    return "\n".join([*lines, f"To run it again: `{best['command']}`"])


def _table(trials: list[dict[str, Any]], metric: str, record: Record) -> str:
    names = _short_keys(record)
    errors = [t["error"] or ("" if t["state"] == "finished" else t["state"]) for t in trials]
    rows = []
    for trial, error in zip(trials, errors, strict=True):
        values = [trial["values"].get(key, "") for key in names]
        rows.append(
            [
                str(trial["number"]),
                "" if trial["value"] is None else f"{trial['value']:.2f}",
                *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values),
                *([error] if any(errors) else []),
            ]
        )
    headings = ["trial", metric, *names.values(), *(["what went wrong"] if any(errors) else [])]
    return markdown_table(headings, rows, "r" * (2 + len(names)) + ("l" if any(errors) else ""))


def _draw_search(record: Record, file: Path, metric: str) -> None:
    """Write a PNG: the metric over trials and, below, over the values of each key."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shares, names = record["importance"] or {}, _short_keys(record)
    keys = sorted(names, key=lambda key: -shares.get(key, 0.0))[:MAX_PANELS]
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
    panels = [figure.add_subplot(grid[1 + i // columns, i % columns]) for i in range(len(keys))]
    for key, axes in zip(keys, panels, strict=True):
        _draw_slice(axes, record["space"][key], key, record)
        axes.set_title(names[key], loc="left", fontsize=10, color=TEXT)
        if key in shares:
            importance = f"importance {100 * shares[key]:.0f} %"
            axes.set_title(importance, loc="right", fontsize=8, color=REMARK)
    # Room below for failed trials and above for the star.
    values = [trial["value"] for trial in _finished(record)]
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high), 1.0)
    failed = any(trial["state"] == "failed" for trial in record["trials"])
    for i, axes in enumerate((history, *panels)):
        axes.set_ylim(low - room * (0.16 if failed else 0.08), high + 0.1 * room)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(REMARK)
        is_first = i == 0 or (i - 1) % columns == 0
        axes.tick_params(labelsize=8, colors=TEXT, length=0, which="both", pad=4)
        axes.tick_params(axis="y", labelleft=is_first)
        axes.set_ylabel(metric if is_first else "", fontsize=9, color=TEXT)
        axes.grid(axis="y", color=GRID)
        axes.set_axisbelow(True)
    figure.savefig(file)


def _draw_history(axes: Any, record: Record, metric: str) -> None:
    finished, trials = _finished(record), record["trials"]
    best, first, last = trials[record["best"]], trials[0], len(trials) - 1
    better = max if record["direction"] == "maximize" else min
    so_far = list(itertools.accumulate((trial["value"] for trial in finished), better))
    xs, ys = [*(trial["number"] for trial in finished), last + 0.4], [*so_far, so_far[-1]]
    axes.step(xs, ys, where="post", color=BLUE, linewidth=1.6, label="best so far", zorder=2)
    _scatter(axes, record, lambda trial: trial["number"])
    if record["starts_with_own"] and first["value"] is not None:
        axes.axhline(first["value"], color=REMARK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        text, place = f"the config's own values, {first['value']:.1f}", (last + 0.4, first["value"])
        look = {"ha": "right", "va": "top", "fontsize": 8, "color": REMARK}
        axes.annotate(text, place, xytext=(0, -3), textcoords="offset points", **look)
    title = f"{record['name']}   best {metric} {best['value']:.1f} in trial {best['number']}"
    axes.set_title(title, loc="left", fontsize=12, color=TEXT, pad=12)
    axes.set_xlim(-0.6, last + 0.6)
    axes.set_xlabel("trial", fontsize=9, color=TEXT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.005, 1.0),
        ncols=len(axes.get_legend_handles_labels()[1]),
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def _draw_slice(axes: Any, drawn_from: Mapping[str, Any], key: str, record: Record) -> None:
    """The metric over the values of a key; choices stand side by side in their order."""
    if "choices" in drawn_from:
        places = {choice: place for place, choice in enumerate(drawn_from["choices"])}
        _scatter(axes, record, lambda trial: places.get(trial["values"].get(key)))
        axes.set_xticks(range(len(places)), [c if len(c) <= 16 else c[:15] + "…" for c in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        return
    _scatter(axes, record, lambda trial: trial["values"].get(key))
    low, high = drawn_from["low"], drawn_from["high"]
    if drawn_from["log"]:
        axes.set_xscale("log")
        room = (high / low) ** 0.04
        axes.set_xlim(low / room, high * room)
    else:
        room = 0.04 * (high - low) or 0.5
        axes.set_xlim(low - room, high + room)


def _scatter(axes: Any, record: Record, place: Callable[[Mapping[str, Any]], Any]) -> None:
    """Finished trials as dots, the best as a star, failed ones as crosses, at x = `place`."""
    from matplotlib.colors import LinearSegmentedColormap

    trials = [trial for trial in record["trials"] if place(trial) is not None]
    finished = [trial for trial in trials if trial["value"] is not None]
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
    best = [trial for trial in finished if trial["number"] == record["best"]]
    xs, ys = [place(trial) for trial in best], [trial["value"] for trial in best]
    star = {"marker": "*", "s": 190, "color": YELLOW, "edgecolors": TEXT, "label": "the best"}
    axes.scatter(xs, ys, linewidths=0.7, zorder=4, **star)
    failed = [place(trial) for trial in trials if trial["state"] == "failed"]
    if failed:
        cross = {"marker": "x", "s": 26, "color": RED, "linewidths": 1.4, "label": "failed"}
        at_edge = axes.get_xaxis_transform()
        axes.scatter(failed, [0.035] * len(failed), transform=at_edge, zorder=3, **cross)


def _finished(record: Record) -> list[dict[str, Any]]:
    return [trial for trial in record["trials"] if trial["value"] is not None]
