"""The status of a sweep's experiments, read from their folders at any time.

It is finished, running, failed, stopped (the same command continues it), killed (likewise) or
waiting.
"""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_dl.core.files import parse_json, printable, read_text
from panoptic_dl.core.run_folder import (
    ERROR,
    FAILED,
    LOG,
    METRICS,
    REFUSED,
    RUN,
    Fields,
    as_json,
    failure,
    read_state,
    read_sweep,
)
from panoptic_dl.report.text import duration, markdown_table

logger = logging.getLogger(__name__)

BAD = ("failed", "killed")
STATUSES = ("finished", "running", "failed", "stopped", "killed", "waiting")
MAX_METRICS = 5  # columns of the table


def rows(sweep: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's folder, in the order of its plan; then those that it does not list.

    Each has "folder" (its name), "status", "error" (the first line, of one that failed), "log" (the
    file to look into then), "iteration" (the last one done) and "iterations" (both None where none
    is known), "metrics" in percent, "wall_seconds" of all "attempts" (their number).

    Raises ValueError: there is no sweep.
    """
    if not sweep.is_dir():
        raise ValueError(f"{sweep} is no folder; name that of a sweep, such as outputs/sweeps/NAME")
    try:
        _, planned = read_sweep(sweep)
    except FileNotFoundError:
        planned = {}
    except (OSError, ValueError) as error:
        logger.warning("%s; its plan is not used", printable(str(error), 500))
        planned = {}
    there = sorted({file.parent.name for name in (RUN, FAILED) for file in sweep.glob(f"*/{name}")})
    names = [*planned, *(name for name in there if name not in planned)]
    if not names:
        raise ValueError(f"{sweep} holds no rows; name the folder of a sweep")
    return [_row(sweep, name) for name in names]


def _row(sweep: Path, name: str) -> dict[str, Any]:
    folder = sweep / name
    why = failure(folder)
    state = read_state(folder) or ({"status": "failed", "error": why} if why else {})
    status, error = state.get("status", "waiting"), state.get("error")
    log = next((str(folder / n) for n in (LOG, ERROR) if (folder / n).is_file()), None)
    iteration = _last_iteration(folder / METRICS)
    return {
        "folder": name,
        "status": status,
        "error": error if status == "failed" else None,
        "log": log if status in BAD else None,
        "iteration": iteration,
        "iterations": (state.get("train") or {}).get("iterations") if iteration else None,
        "metrics": as_json(Fields(state, RUN).object("metrics").numbers()),
        "wall_seconds": state.get("wall_seconds") or 0.0,
        "attempts": len(state.get("attempts") or []),
    }


def _last_iteration(metrics: Path) -> int | None:
    """Steps done by the last line of metrics.json."""
    try:
        lines = read_text(metrics).splitlines()
        return max(int(parse_json(line, METRICS)["iteration"]) for line in lines[-3:]) + 1
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def status_text(found: Sequence[Mapping[str, Any]]) -> str:
    """A table of the rows, with the errors of those that failed below."""
    metrics = list(dict.fromkeys(name for row in found for name in row["metrics"]))[:MAX_METRICS]
    lines = []
    for row in found:
        done = "" if row["iteration"] is None else f"{row['iteration']}/{row['iterations']}"
        values = [row["metrics"].get(name) for name in metrics]
        shown = ["" if x is None or not math.isfinite(x) else f"{x:.1f}" for x in values]
        time = duration(row["wall_seconds"]) if row["wall_seconds"] else ""
        lines.append([row["folder"], row["status"], done, *shown, time])
    headings = ["row", "status", "iterations", *metrics, "time"]
    text = [markdown_table(headings, lines, "ll" + "r" * (len(headings) - 2))]
    statuses = [row["status"] for row in found]
    text.append(", ".join(f"{statuses.count(s)} {s}" for s in STATUSES if s in statuses))
    for row in found:
        if row["status"] in BAD:
            log = f"\n    {row['log']}" if row["log"] else ""
            said = printable(row["error"] or "ended without a message", 500)
            text.append(f"{printable(row['folder'])}: {said}{log}")
    return "\n".join(text)


def conclude(
    sweep: Path, planned: Collection[str] | None = None, again: str = "The same command"
) -> tuple[str | None, bool]:
    """What to print at the end of a sweep, and whether none of its rows has failed.

    `planned` are the rows of its command, `again` is the one that goes on with them.
    """
    try:
        found = rows(sweep)
    except ValueError:
        return None, True
    statuses = {row["status"] for row in found}
    if statuses == {"waiting"}:  # trials, and modes that leave no record
        return None, True
    text = f"\n{status_text(found)}"
    refused = (sweep / REFUSED).read_text() if (sweep / REFUSED).is_file() else ""
    text += f"\n{refused.rstrip()}" if refused else ""
    own = [row["status"] for row in found if planned is None or row["folder"] in planned]
    ended = {*BAD, "stopped", "waiting"}
    if ended & set(own):
        text += f"\n{again} goes on with the rows that are not finished."
    if others := sum(row["status"] in ended for row in found) - sum(each in ended for each in own):
        text += f"\nNot finished, and for the commands that had them: {others} other rows."
    if "running" in own:
        text += "\nAnother command trains the rows that are running."
    return text, not refused and not set(own) & set(BAD)
