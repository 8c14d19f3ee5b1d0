"""How the rows of a sweep stand, read from their folders at any time."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tabulate import tabulate

from panoptic_dl.core.run_folder import (
    ERROR,
    FAILED,
    LOG,
    METRICS,
    RUN,
    failure,
    read_state,
    read_sweep,
)

BAD = ("failed", "killed")


@dataclass(frozen=True)
class Row:
    """A row of a sweep.

    Attributes:
        folder: its name, below the sweep's.
        status: finished | running | failed | stopped (goes on with the same command) | killed
            (likewise) | waiting.
        error: first line of the error of one that failed.
        log: where to look then.
        iteration, iterations: done, and meant; None of modes without.
        metrics: its figures, in percent.
        wall_seconds: of all attempts.
    """

    folder: str
    status: str
    error: str | None = None
    log: str | None = None
    iteration: int | None = None
    iterations: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    wall_seconds: float = 0.0
    attempts: int = 0


def rows(sweep: Path) -> list[Row]:
    """The rows of a sweep's folder, in the order of its plan; then those that it does not list.

    Raises:
        ValueError: there is no sweep.
    """
    if not sweep.is_dir():
        raise ValueError(f"{sweep} is no folder; name that of a sweep, such as outputs/sweeps/NAME")
    try:
        _, planned = read_sweep(sweep)
    except (OSError, ValueError):
        planned = {}
    known = (RUN, FAILED)
    there = sorted({file.parent.name for name in known for file in sweep.glob(f"*/{name}")})
    names = [*planned, *(name for name in there if name not in planned)]
    if not names:
        raise ValueError(f"{sweep} holds no rows; name the folder of a sweep")
    return [row(sweep / name) for name in names]


def row(folder: Path) -> Row:
    """How one row stands."""
    state = read_state(folder)
    status, error = state.get("status", "waiting"), state.get("error")
    if (folder / FAILED).is_file():
        status, error = "failed", failure(folder)
    log = next((folder / n for n in (LOG, ERROR) if (folder / n).is_file()), None)
    iteration = _last_iteration(folder / METRICS)
    return Row(
        folder=folder.name,
        status=status,
        error=error if status == "failed" else None,
        log=str(log) if log is not None and status in BAD else None,
        iteration=iteration,
        iterations=(state.get("train") or {}).get("iterations") if iteration else None,
        metrics=state.get("metrics") or {},
        wall_seconds=state.get("wall_seconds") or 0.0,
        attempts=len(state.get("attempts") or []),
    )


def status_text(found: Sequence[Row]) -> str:
    """A table of the rows, with the errors of those that failed beneath."""
    figures = list(dict.fromkeys(name for row in found for name in row.metrics))[:5]
    lines = [
        [
            row.folder,
            row.status,
            "" if row.iteration is None else f"{row.iteration}/{row.iterations}",
            *(_figure(row.metrics.get(name)) for name in figures),
            _time(row.wall_seconds),
        ]
        for row in found
    ]
    headers = ["row", "status", "iterations", *figures, "time"]
    aligned = ["left", "left", *["right"] * (len(headers) - 2)]
    text = [tabulate(lines, headers, "github", disable_numparse=True, colalign=aligned)]
    counts = {each: sum(row.status == each for row in found) for each in _ORDER}
    text.append(", ".join(f"{n} {each}" for each, n in counts.items() if n))
    for row in found:
        if row.status in BAD:
            said = row.error or "ended without a word"
            text.append(f"{row.folder}: {said}" + (f"\n    {row.log}" if row.log else ""))
    return "\n".join(text)


def status_json(found: Sequence[Row]) -> str:
    """The same for programs."""
    return json.dumps([asdict(row) for row in found], indent=2, allow_nan=False)


def conclude(sweep: Path) -> tuple[str | None, bool]:
    """What a sweep says at its end, and whether all its rows went well."""
    try:
        found = rows(sweep)
    except ValueError:
        return None, True
    if all(row.status == "waiting" for row in found):  # trials, and modes that leave no record
        return None, True
    text = f"\n{status_text(found)}"
    if any(row.status in (*BAD, "stopped", "waiting") for row in found):
        text += "\nThe same command goes on with the rows that are not finished."
    return text, not any(row.status in BAD for row in found)


_ORDER = ("finished", "running", "failed", "stopped", "killed", "waiting")


def _last_iteration(metrics: Path) -> int | None:
    """Steps done by the last line of metrics.json."""
    try:
        lines = metrics.read_text().splitlines()
        return max(int(json.loads(line)["iteration"]) for line in lines[-3:]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _figure(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.1f}"


def _time(seconds: float) -> str:
    if not seconds:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
