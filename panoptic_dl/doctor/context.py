"""What the doctor looks at: a row's parts, which are built when a check asks, and its numbers.

What a check says: green, yellow or red; what was found; what to do about it.

Checks, and how they are made one after the other: whatever fails, the next one is made.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from detectron2.utils import comm

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.settings import DoctorSettings, experiment_name
from panoptic_dl.datasets.custom import FORMATS
from panoptic_dl.doctor.labels import Split


@dataclass
class Patient:
    """A row as composed, and what checks have found out about it.

    Attributes:
        device: `cuda` or `cpu`.
        parts: functions that build the row's parts, by name: see conf/mode/doctor.yaml.
        choice: names of the chosen parts: "backbone", "head", "dataset", "task".
        sizes: "crop_size", "image_size" [H, W], "min_size_test", "size_divisibility" in pixels.
        train, checkpoint, recipe, launch: those groups of the config.
        launch_refused: why the processes that `launch` asks for could not start.
        weights: file or run folder to start from.
        pretrained: the file that the recipe starts from, for whoever gives no weights.
        splits: "train" and "val", as far as they could be registered.
        tell_others: called now and then by checks that take long, for processes that wait.
    """

    device: str
    parts: Mapping[str, Callable[[], Any]]
    choice: Mapping[str, str]
    sizes: Mapping[str, Any]
    train: dict[str, Any]
    checkpoint: dict[str, Any]
    recipe: Mapping[str, Any]
    launch: Mapping[str, Any]
    settings: DoctorSettings
    run_dir: str
    ignore_label: int = 255
    image_format: str = "RGB"
    max_bad_samples: int = 0
    launch_refused: str | None = None
    weights: str | None = None
    pretrained: Mapping[str, Any] | None = None
    splits: dict[str, Split] = field(default_factory=dict)
    tell_others: Callable[[], None] = lambda: None
    _built: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Any:
        """The part of that name, built when it is first asked for; raises what building raises."""
        if name not in self._built:
            self._built[name] = self.parts[name]()
        return self._built[name]

    @property
    def row(self) -> str:
        """The name of the row: dataset_task_backbone_head."""
        return experiment_name(self.choice)

    @property
    def has_own_data(self) -> bool:
        """Whether the dataset is somebody's own: sizes, areas and crowds need not be listed."""
        return self.choice["dataset"] in FORMATS

    @property
    def num_processes(self) -> int:
        """That train together."""
        return comm.get_world_size()

    @property
    def root(self) -> str:
        """The folder that holds the dataset's folder, as far as it can be told."""
        try:
            return str(self.part("root"))
        except Exception:
            return "ROOT"


class State(str, Enum):
    """Of a row of the table; only FAIL makes the doctor's exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    UNCHECKED = "not checked"


@dataclass(frozen=True)
class Verdict:
    """Of one check.

    Attributes:
        found: what there is, in one line.
        cure: what to do, a command where there is one; None where nothing is to be done.
        problems: all that is wrong, one a line, where it is more than `found` says.
    """

    state: State
    found: str
    cure: str | None = None
    problems: tuple[str, ...] = ()


def ok(found: str) -> Verdict:
    """Green."""
    return Verdict(State.OK, found)


def warn(found: str, cure: str, problems: Sequence[str] = ()) -> Verdict:
    """Yellow: it will run, but perhaps not as meant."""
    return Verdict(State.WARN, found, cure, tuple(problems))


def fail(found: str, cure: str, problems: Sequence[str] = ()) -> Verdict:
    """Red: it will not run, or its figures will be wrong."""
    return Verdict(State.FAIL, found, cure, tuple(problems))


def judge(
    right: str, wrong: str, cure: str, failures: Sequence[str], warnings: Sequence[str] = ()
) -> Verdict:
    """Red where there are failures, yellow where there are only warnings, else green.

    Args:
        right: what is found where nothing is wrong.
        wrong: what the problems are, after their number: "images cannot be read".
    """
    problems = [*failures, *warnings]
    if not problems:
        return ok(right)
    found = f"{len(problems):,} {wrong}"
    return fail(found, cure, problems) if failures else warn(found, cure, problems)


def from_error(error: BaseException, cure: str) -> Verdict:
    """Red, in the words of an error; its own remedy, where it names one, replaces `cure`."""
    text = str(error) or type(error).__name__
    known = isinstance(error, (ValueError, OSError, FloatingPointError))
    if not known:  # such as KeyError, whose text alone says nothing
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        cure = "make room on the disk, or choose another run_dir"
    first, *others = [line.strip() for line in text.strip().splitlines() if line.strip()]
    for index, line in enumerate(others):
        if line.startswith("remedy:"):
            cure = " ".join([line.removeprefix("remedy:").strip(), *others[index + 1 :]])
            others = others[:index]
            break
    return fail(first, cure, others)


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
