"""A search: its best trial with its command, a table of all trials, and a picture.

A record is what a search keeps in search.json: see `panoptic_dl.sweeps.study.Study.record`.
"""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from panoptic_dl.core.files import read_json_object, write_text
from panoptic_dl.core.run_folder import RESULTS
from panoptic_dl.report.formats import load_template
from panoptic_dl.report.text import markdown_table, short_names
from panoptic_dl.visualize.charts import BLUE, GRID, REMARK, TEXT, YELLOW

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
    facts = {"record": record, "best": best, "metric": metric, "names": _short_keys(record)}
    head = load_template("search_head.md").render(facts)
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
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    shares, names = record["importance"] or {}, _short_keys(record)
    keys = sorted(names, key=lambda key: -shares.get(key, 0.0))[:MAX_PANELS]
    columns = min(COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(10, 3.3 + 2.75 * rows), dpi=110, layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[3.3, *[2.75] * rows])
    history = figure.add_subplot(grid[0, :])
    panels = [figure.add_subplot(grid[1 + i // columns, i % columns]) for i in range(len(keys))]

    finished = [trial for trial in record["trials"] if trial["value"] is not None]
    numbers, values = ([trial[key] for trial in finished] for key in ("number", "value"))
    best = numbers.index(record["best"])
    better = max if record["direction"] == "maximize" else min
    so_far = list(itertools.accumulate(values, better))
    history.step(numbers, so_far, where="post", color=BLUE, label="best so far")
    places = [numbers, *([trial["values"][key] for trial in finished] for key in keys)]
    later_darker = LinearSegmentedColormap.from_list("order", ["#c3d3ea", "#1f3f73"])
    look: dict[str, Any] = {"c": numbers, "cmap": later_darker, "edgecolors": "white", "zorder": 3}
    star: dict[str, Any] = {
        "marker": "*",
        "s": 190,
        "color": YELLOW,
        "edgecolors": TEXT,
        "zorder": 4,
    }
    for axes, xs in zip((history, *panels), places, strict=True):
        axes.scatter(xs, values, **look, label="a trial (later ones darker)")
        axes.scatter(xs[best], values[best], **star, label="the best")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=8, colors=TEXT, length=0, which="both")
        axes.grid(axis="y", color=GRID)
        axes.set_ylabel(metric)
    for axes, key in zip(panels, keys, strict=True):
        axes.sharey(history)
        axes.set_title(names[key], loc="left", fontsize=10, color=TEXT)
        if record["space"][key].get("log"):
            axes.set_xscale("log")
        if key in shares:
            importance = f"importance {100 * shares[key]:.0f} %"
            axes.set_title(importance, loc="right", fontsize=8, color=REMARK)
    if record["starts_with_own"] and numbers[0] == 0:
        text = f"the config's own values, {values[0]:.1f}"
        history.axhline(values[0], color=REMARK, linewidth=1, linestyle="--", label=text)
    title = f"{record['name']}   best {metric} {values[best]:.1f} in trial {record['best']}"
    history.set_title(title, loc="left", fontsize=12, color=TEXT)
    history.set_xlabel("trial")
    history.locator_params(axis="x", integer=True)
    history.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False, fontsize=8)
    figure.savefig(file)
