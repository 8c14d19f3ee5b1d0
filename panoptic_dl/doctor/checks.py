"""Checks, and how they are made one after the other: whatever fails, the next one is made."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from panoptic_dl.data.errors import DatasetError

from .patient import Patient
from .verdicts import State, Verdict, from_error

logger = logging.getLogger(__name__)

OWN_DATA = (
    'correct what is named, then run this again; "When something is refused" in '
    "docs/custom_dataset.md says more"
)
UNEXPECTED = "log.txt in the run's folder has the whole error: please report it with that file"


@dataclass(frozen=True)
class Check:
    """One look at the patient; one row of the table.

    Attributes:
        group: the heading that the row stands under.
        name: of the row.
        look: may raise whatever it likes; None: there is nothing of this kind to look at.
        needs: names ("group: name") of rows without which there is nothing to look at.
        cure: what to do when `look` raises, unless the error says it.
    """

    group: str
    name: str
    look: Callable[[Patient], Verdict | None]
    needs: tuple[str, ...] = ()
    cure: str = UNEXPECTED

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    group: str
    name: str
    verdict: Verdict
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        verdict = asdict(self.verdict) | {
            "state": self.verdict.state.value,
            "problems": list(self.verdict.problems),
        }
        return {"group": self.group, "name": self.name, **verdict, "seconds": self.seconds}


def make_checks(checks: Iterable[Check], patient: Patient) -> list[Row]:
    """Make the checks in their order; nothing that they raise but KeyboardInterrupt comes out."""
    rows: dict[str, Row] = {}
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            logger.info("Looking at: %s", group)
        started = time.perf_counter()
        verdict = _make(check, patient, rows)
        if verdict is not None:
            seconds = round(time.perf_counter() - started, 3)
            rows[check.title] = Row(check.group, check.name, verdict, seconds)
    return list(rows.values())


def _make(check: Check, patient: Patient, rows: dict[str, Row]) -> Verdict | None:
    bad = (State.FAIL, State.UNCHECKED)
    lacking = [name for name in check.needs if name in rows and rows[name].verdict.state in bad]
    if lacking:
        return Verdict(State.UNCHECKED, f"needs {', '.join(lacking)}")
    try:
        return check.look(patient)
    except (Exception, SystemExit) as error:  # official scripts end the program where data is bad
        logger.debug("%s failed", check.title, exc_info=True)
        own = patient.has_own_data and isinstance(error, DatasetError)
        return from_error(error, OWN_DATA if own else check.cure)
