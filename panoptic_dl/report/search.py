"""A search as people read it: its best trial with its command, a table of all, a picture."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .search_picture import draw_search

PRINTED = 10  # trials on the console; search.md has all


def report_search(folder: Path) -> str:
    """Write search.md and, once a trial has finished, search.png; return text for the console.

    Args:
        folder: of a search, with the `search.json` that it keeps.
    """
    record = json.loads((folder / "search.json").read_text())
    trials = record["trials"]
    best = None if record["best"] is None else trials[record["best"]]
    figure = _figure_name(folder, best)
    if best is None:
        failed = next((trial for trial in trials if trial["error"]), None)
        text = f"No trial of {len(trials)} has finished"
        if failed:
            text += (
                f". The first one to fail, {folder / failed['folder']}: {failed['error']}\n"
                "Failed trials stay failed: cure that and name another folder, sweep_dir=FOLDER"
            )
        (folder / "search.md").write_text(f"{text}\n\n{_table(trials, figure, record)}\n")
        return f"{text}\n"
    draw_search(record, folder / "search.png", figure)
    head = _head(record, best, figure)
    body = f"{head}\n\n{_table(_ranked(record), figure, record)}\n"
    (folder / "search.md").write_text(f"# {record['name']}\n\n{body}\n![search](search.png)\n")
    shown = _ranked(record)[:PRINTED]
    more = len(trials) - len(shown)
    return (
        f"\n{_table(shown, figure, record)}\n"
        + (f"(and {more} more in search.md)\n" if more else "")
        + f"\n{head}\nSaved {folder}/search.md, .png and .json, best.yaml\n"
    )


def short_names(keys: list[str]) -> dict[str, str]:
    """Keys by their last part, or as many parts as tell them apart."""
    short = {}
    for key in keys:
        parts = key.lstrip("+").split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum((other.lstrip("+") + ".").endswith(f"{name}.") for other in keys) == 1:
                break
        short[key] = name
    return short


def value_text(value: Any) -> str:
    """A searched value, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _head(record: Mapping[str, Any], best: Mapping[str, Any], figure: str) -> str:
    states = [trial["state"] for trial in record["trials"]]
    counts = ", ".join(
        f"{states.count(s)} {s}" for s in ("finished", "failed", "unfinished") if s in states
    )
    lines = [
        f"{len(states)} trials: {counts}.",
        f"Best {figure}: {best['value']:.2f}, trial {best['number']}.",
    ]
    first = record["trials"][0]
    if record["starts_with_own"] and first["value"] is not None and first is not best:
        lines[1] += f" The config's own values, trial 0: {first['value']:.2f}."
    if record["importance"]:
        names = short_names(list(record["space"]))
        shares = ", ".join(f"{names[k]} {100 * s:.0f} %" for k, s in record["importance"].items())
        lines.append(f"What moved it (PED-ANOVA, a hint with few trials): {shares}.")
    return "\n".join([*lines, f"To run it again: `{best['command']}`"])


def _table(trials: list[dict[str, Any]], figure: str, record: Mapping[str, Any]) -> str:
    keys = list(record["space"])
    names = short_names(keys)
    rows = [
        [
            trial["number"],
            "" if trial["value"] is None else f"{trial['value']:.2f}",
            *(value_text(trial["values"].get(key, "")) for key in keys),
            trial["error"] or ("" if trial["state"] == "finished" else trial["state"]),
        ]
        for trial in trials
    ]
    headers = ["trial", figure, *(names[key] for key in keys), "what went wrong"]
    if not any(row[-1] for row in rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    aligned = [*["right"] * (2 + len(keys)), "left"][: len(headers)]
    return tabulate(rows, headers, "github", disable_numparse=True, colalign=aligned)


def _ranked(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The best trial first; those without a figure last."""
    sign = -1 if record["direction"] == "maximize" else 1
    return sorted(
        record["trials"],
        key=lambda trial: (trial["value"] is None, sign * (trial["value"] or 0), trial["number"]),
    )


def _figure_name(folder: Path, best: Mapping[str, Any] | None) -> str:
    """What the figure is called in the results of a run, such as PQ."""
    if best is None:
        return "figure"
    try:
        results = json.loads((folder / best["folder"] / "results.json").read_text())
        return str(next(iter(results["metrics"])))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):  # not a run of ours
        return "figure"
