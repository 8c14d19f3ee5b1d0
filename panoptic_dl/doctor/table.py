"""The table of all checks, for terminals, Markdown and JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate
from termcolor import colored

from panoptic_dl.doctor.context import Row, State

SHOWN = 10  # problems of a row, in print
COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.UNCHECKED: "magenta"}


def summary(rows: Sequence[Row]) -> str:
    """All in one line: "38 ok, 2 warn, 1 FAIL"."""
    counts = Counter(row.verdict.state for row in rows)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])


def text(rows: Sequence[Row], *, in_color: bool = False) -> str:
    """A line a check under headings; below what is not green, its problems and the cure."""
    width = max((len(row.name) for row in rows), default=0)
    state_width = max((len(row.verdict.state.value) for row in rows), default=0)
    indent = " " * (state_width + width + 6)
    lines, group = [], ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(group)
        verdict = row.verdict
        state = verdict.state.value.ljust(state_width)
        if in_color:
            state = colored(state, COLORS[verdict.state], force_color=True)
        lines.append(f"  {state}  {row.name.ljust(width)}  {verdict.found}")
        lines += [f"{indent}- {problem}" for problem in verdict.problems[:SHOWN]]
        if len(verdict.problems) > SHOWN:
            lines.append(f"{indent}- and {len(verdict.problems) - SHOWN:,} more in doctor.json")
        if verdict.cure is not None:
            lines.append(f"{indent}cure: {verdict.cure}")
    return "\n".join([*lines, summary(rows)])


def markdown(rows: Sequence[Row], title: str) -> str:
    """One table, and lists of what is wrong below it."""
    cells = [
        [
            f"{row.group}: {row.name}",
            f"**{row.verdict.state.value}**"
            if row.verdict.state is State.FAIL
            else row.verdict.state.value,
            _cell(row.verdict.found),
            _cell(row.verdict.cure or ""),
        ]
        for row in rows
    ]
    parts = [
        f"# {title}: {summary(rows)}",
        tabulate(cells, ["check", "", "found", "cure"], "github", disable_numparse=True),
    ]
    for row in rows:
        if row.verdict.problems:
            parts.append(f"## {row.group}: {row.name}")
            parts.append("\n".join(f"- `{p}`" for p in row.verdict.problems[:SHOWN]))
            if len(row.verdict.problems) > SHOWN:
                parts.append(f"{len(row.verdict.problems) - SHOWN:,} more are in doctor.json")
    return "\n\n".join(parts) + "\n"


def as_json(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """All rows with all their problems."""
    counts = Counter(row.verdict.state for row in rows)
    content = {
        **about,
        "healthy": not counts[State.FAIL],
        "counts": {state.value: counts[state] for state in State},
        "rows": [row.as_dict() for row in rows],
    }
    return json.dumps(content, indent=2) + "\n"


def _cell(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", " ")
