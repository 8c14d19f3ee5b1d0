"""What is known of a run: the fields of its `run.json`, and of what lies beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Runs with figures to be held against others; the rest only look at something.
MEASURING = ("train", "eval")


@dataclass(frozen=True)
class Attempt:
    """One start of a run: from where to where, in ISO 8601; `ended` is empty while it works."""

    started: str
    ended: str
    seconds: float
    status: str


@dataclass(frozen=True)
class Run:
    """One run folder. What a run did not say is empty, None or NaN."""

    folder: Path
    label: str  # the folder, from the one that was given; for people
    name: str
    mode: str
    row: str  # <dataset>_<task>_<backbone>_<head>
    status: str  # running | finished | stopped (by a signal) | killed (without a word) | failed
    choices: Mapping[str, str] = field(default_factory=dict)  # option of each group
    overrides: Sequence[str] = ()
    command: str = ""
    sweep: str | None = None
    seed: int | None = None
    config_hash: str = ""
    family: str = ""  # the same for runs of one experiment with different seeds
    revision: str = ""  # of git, "" where unknown
    changed: bool = False  # whether the working tree was
    environment: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, float] = field(default_factory=dict)  # iterations, batch_size, lr
    train: Mapping[str, Any] = field(default_factory=dict)  # iterations, batch_size, precision
    published_note: str = ""
    error: str = ""  # its first line
    attempts: Sequence[Attempt] = ()
    wall_seconds: float = math.nan
    device_hours: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)  # percent; NaN: undecided
    results: Mapping[str, Any] = field(default_factory=dict)  # results.json
    settings: Mapping[str, str] = field(default_factory=dict)  # the resolved config, flat
    last_written: str = ""  # when a run that is not finished last wrote its log or figures
    remarks: Sequence[str] = ()  # what of it could not be read

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def when(self) -> str:
        """The last sign of the run in ISO 8601; "" where it left none."""
        return max([self.last_written, *(a.ended or a.started for a in self.attempts)])

    @property
    def moment(self) -> str:
        """The same for people: "2026-01-31 09:05"."""
        return self.when[:16].replace("T", " ")

    @property
    def trial(self) -> str:
        """Why its figures are none, such as a fast_dev_run; "" where they are."""
        if self.results.get("no_result"):
            return str(self.results["no_result"]).partition(",")[0]
        for key, none in (("train.fast_dev_run", "false"), ("train.overfit_batches", "0")):
            value = self.setting(key)
            if value not in (None, none):
                return f"{key}={value}"
        return ""

    @property
    def several_looks(self) -> bool:
        """Whether predictions of scaled or mirrored images were averaged."""
        return self.measured.get("scales", [1.0]) != [1.0] or bool(self.measured.get("flip"))

    @property
    def measured(self) -> Mapping[str, Any]:
        """How the evaluation looked at images."""
        found = self.results.get("measured")
        return found if isinstance(found, dict) else {}

    def setting(self, key: str) -> str | None:
        """A leaf of the config: resolved, else as overridden; None where neither is known."""
        if key in self.settings:
            return self.settings[key]
        for override in reversed(self.overrides):
            name, equals, value = override.lstrip("+").partition("=")
            if equals and name == key:
                return value
        return None


@dataclass(frozen=True)
class Unreadable:
    """A folder that looks like a run's and cannot be read."""

    label: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """A row of a sweep that has not been started."""

    label: str
    sweep: str
    overrides: Sequence[str]
