"""The table of all checks, for terminals, Markdown and JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate
from termcolor import colored

from panoptic_dl.doctor.context import CheckResult, State

MAX_PROBLEMS = 10  # of a check, in print
COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.UNCHECKED: "magenta"}


def summary(results: Sequence[CheckResult]) -> str:
    """All in one line: "38 ok, 2 warn, 1 FAIL"."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])


def text(results: Sequence[CheckResult], *, in_color: bool = False) -> str:
    """A line a check under headings; below what is not green, its problems and the hint."""
    width = max((len(result.name) for result in results), default=0)
    state_width = max((len(result.state.value) for result in results), default=0)
    indent = " " * (state_width + width + 6)
    lines, group = [], ""
    for result in results:
        if result.group != group:
            group = result.group
            lines.append(group)
        state = result.state.value.ljust(state_width)
        if in_color:
            state = colored(state, COLORS[result.state], force_color=True)
        lines.append(f"  {state}  {result.name.ljust(width)}  {result.found}")
        lines += [f"{indent}- {problem}" for problem in result.problems[:MAX_PROBLEMS]]
        if len(result.problems) > MAX_PROBLEMS:
            more = len(result.problems) - MAX_PROBLEMS
            lines.append(f"{indent}- and {more:,} more in doctor.json")
        if result.hint is not None:
            lines.append(f"{indent}cure: {result.hint}")
    return "\n".join([*lines, summary(results)])


def markdown(results: Sequence[CheckResult], title: str) -> str:
    """One table, and lists of what is wrong below it."""
    cells = [
        [
            f"{result.group}: {result.name}",
            f"**{result.state.value}**" if result.state is State.FAIL else result.state.value,
            *(
                text.replace("|", "\\|").replace("\n", " ")
                for text in (result.found, result.hint or "")
            ),
        ]
        for result in results
    ]
    parts = [
        f"# {title}: {summary(results)}",
        tabulate(cells, ["check", "", "found", "cure"], "github", disable_numparse=True),
    ]
    for result in results:
        if result.problems:
            parts.append(f"## {result.group}: {result.name}")
            parts.append("\n".join(f"- `{p}`" for p in result.problems[:MAX_PROBLEMS]))
            if len(result.problems) > MAX_PROBLEMS:
                parts.append(f"{len(result.problems) - MAX_PROBLEMS:,} more are in doctor.json")
    return "\n\n".join(parts) + "\n"


def as_json(results: Sequence[CheckResult], about: dict[str, Any]) -> str:
    """All checks with all their problems."""
    counts = Counter(result.state for result in results)
    content = {
        **about,
        "healthy": not counts[State.FAIL],
        "counts": {state.value: counts[state] for state in State},
        "rows": [result.as_dict() for result in results],
    }
    return json.dumps(content, indent=2) + "\n"
