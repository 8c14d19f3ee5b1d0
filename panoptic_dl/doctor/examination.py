"""mode=doctor: all checks of a row, their table, and the exit code."""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.engine.exit_codes import ExitCode
from panoptic_dl.whole_files import write_text

from .checks import Row, make_checks
from .list_of_checks import all_checks
from .patient import DoctorSettings, Patient
from .report import as_json, markdown, summary, text
from .steps import STEPS, clear
from .together import Leader, follow
from .verdicts import State

logger = logging.getLogger(__name__)


def examine(
    *,
    device: str,
    parts: Mapping[str, Callable[[], Any]],
    settings: dict[str, Any],
    **row: Any,
) -> dict[str, Any]:
    """Check everything about a row, print the table, save it in `run_dir`.

    Called by every process of the run: the first makes the checks, all take the steps.

    Args:
        device: `cuda` or `cpu`.
        parts: functions that build the row's parts.
        settings: fields of `DoctorSettings`.
        row: the other fields of `Patient`.

    Returns:
        `metrics`: how many rows are red, and how many yellow; `rows`, for JSON. {} but in the first
        process.

    Raises:
        ValueError: settings that cannot be.
        SystemExit: with 1, where a row is red; everything is printed and saved then.
    """
    patient = Patient(device=device, parts=parts, settings=DoctorSettings(**settings), **row)
    if not comm.is_main_process():
        follow(dict(STEPS), patient)
        return {}
    leader = Leader()
    patient.tell_others = leader.keep_waiting
    rows = make_checks(all_checks(leader, steps=patient.settings.steps), patient)
    clear(patient)
    results = _report(rows, patient)
    if results["metrics"]["red"]:
        sys.exit(ExitCode.ERROR)  # ends the other processes, wherever they are
    leader.dismiss()
    return results


def _report(rows: list[Row], patient: Patient) -> dict[str, Any]:
    """Print and save; where there is no room to save, say so after the table."""
    name = patient.row
    logger.debug("The doctor's table\n%s", text(rows))  # for log.txt, without colours
    print(text(rows, in_color=sys.stdout.isatty()), flush=True)
    folder = Path(patient.run_dir)
    about = {"row": name, "sample": patient.settings.sample, "device": patient.device}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "doctor.json", as_json(rows, about))
        write_text(folder / "doctor.md", markdown(rows, name))
        logger.info("%s: %s; saved %s and .md", name, summary(rows), folder / "doctor.json")
    except OSError as error:
        logger.error("The table cannot be saved in %s: %s", folder, error)
    states = [row.verdict.state for row in rows]
    return {
        "metrics": {
            "red": float(states.count(State.FAIL)),
            "yellow": float(states.count(State.WARN)),
        },
        "rows": [row.as_dict() for row in rows],
    }
