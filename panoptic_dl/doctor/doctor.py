"""mode=doctor: all checks of an experiment, their table, and the exit code."""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from termcolor import colored

from panoptic_dl.core.files import visible, write_text
from panoptic_dl.core.run_folder import ExitCode
from panoptic_dl.core.settings import DoctorSettings, experiment_name
from panoptic_dl.doctor import config, data, steps
from panoptic_dl.doctor.context import CheckContext, CheckResult, State, run_checks

logger = logging.getLogger(__name__)

MAX_PROBLEMS = 10  # of a check, in print
COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red", State.UNCHECKED: "magenta"}


def run_doctor(
    *,
    device: str,
    parts: Mapping[str, Callable[[], Any]],
    settings: dict[str, Any],
    **others: Any,
) -> dict[str, Any]:
    """Check everything about an experiment, print the table, save it in `run_dir`.

    Called by every process of the run: the main one runs the checks, all take the steps.
    `settings` are fields of `DoctorSettings`, `parts` and `others` the others of `CheckContext`.

    Returns `metrics`, how many checks are red and yellow, and `rows`, for JSON; {} but in the main
    process. Raises SystemExit with 1, where a check is red; everything is printed and saved then.
    """
    context = CheckContext(
        device=device,
        parts=parts,
        settings=DoctorSettings(**settings),
        process_group=steps.make_process_group(),
        **others,
    )
    if not comm.is_main_process():
        steps.follow(context)
        return {}
    checks = [*config.setup_checks(), *data.checks(), *config.checks()]
    if context.settings.steps:
        checks += steps.checks()
    results = run_checks(checks, context)
    steps.clear(context)
    report = _report(results, context)
    if report["metrics"]["red"]:
        sys.exit(ExitCode.ERROR)  # ends the other processes, wherever they are
    steps.dismiss(context)
    return report


def _report(results: list[CheckResult], context: CheckContext) -> dict[str, Any]:
    """Print and save; where there is no room to save, log it after the table."""
    logger.debug("The doctor's table\n%s", _text(results))  # for log.txt, without colors
    print(_text(results, in_color=True), flush=True)
    folder, name = Path(context.run_dir), experiment_name(context.choice)
    counts = Counter(result.state for result in results)
    rows = [
        {
            "group": result.group,
            "name": result.name,
            "state": result.state.value,
            "found": result.found,
            "cure": result.hint,
            "problems": list(result.problems),
            "seconds": result.seconds,
        }
        for result in results
    ]
    content = {
        "row": name,
        "sample": context.settings.sample,
        "device": context.device,
        "healthy": not counts[State.FAIL],
        "counts": {state.value: counts[state] for state in State},
        "rows": rows,
    }
    title = f"{name}: {_summary(results)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "doctor.json", json.dumps(content, indent=2) + "\n")
        write_text(folder / "doctor.md", f"# {title}\n\n```\n{_text(results)}\n```\n")
        logger.info("%s; saved %s and .md", title, folder / "doctor.json")
    except OSError as error:
        logger.error("The table cannot be saved in %s: %s", folder, error)
    metrics = {"red": float(counts[State.FAIL]), "yellow": float(counts[State.WARN])}
    return {"metrics": metrics, "rows": rows}


def _summary(results: Sequence[CheckResult]) -> str:
    """All in one line: "38 ok, 2 warn, 1 FAIL"."""
    counts = Counter(result.state for result in results)
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])


def _shown(problems: Sequence[str]) -> list[str]:
    """The first problems, and how many more there are."""
    shown = list(problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        shown.append(f"and {len(problems) - MAX_PROBLEMS:,} more in doctor.json")
    return shown


def _text(results: Sequence[CheckResult], *, in_color: bool = False) -> str:
    """A line a check under headings, its problems and hint; last, what needs one that failed."""
    waiting = [result for result in results if result.needs]
    results = [result for result in results if not result.needs]
    width = max((len(result.name) for result in results), default=0)
    state_width = max((len(result.state.value) for result in results), default=0)
    indent = " " * (state_width + width + 6)
    lines, group = [], ""
    for result in results:
        if result.group != group:
            group = result.group
            lines.append(group)
        state = result.state.value.ljust(state_width)
        if in_color:  # where NO_COLOR, TERM and the terminal allow it
            state = colored(state, COLORS[result.state])
        lines.append(f"  {state}  {result.name.ljust(width)}  {visible(result.found)}")
        lines += [f"{indent}- {visible(problem)}" for problem in _shown(result.problems)]
        if result.hint is not None:
            lines.append(f"{indent}hint: {visible(result.hint)}")
    if waiting:
        causes = ", ".join(dict.fromkeys(name for result in waiting for name in result.needs))
        lines.append(f"{len(waiting)} checks need what failed: {causes}")
    return "\n".join([*lines, _summary([*results, *waiting])])
