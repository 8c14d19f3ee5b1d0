"""What checks are given, what they return, and how they are run one after the other."""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import IGNORE_LABEL
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.data.loader import accumulation
from panoptic_dl.datasets import importing
from panoptic_dl.datasets.categories import read_annotations
from panoptic_dl.datasets.custom import FORMATS
from panoptic_dl.doctor.labels import ImageReport

logger = logging.getLogger(__name__)

CUSTOM_DATASET_HINT = (
    'correct what is named, then run this again; "When something is refused" in '
    "docs/how-to/formats.md says more"
)
UNEXPECTED_HINT = "log.txt in the run's folder has the whole error: please report it with that file"


@dataclass
class Split:
    """Records and metadata of a split, from Detectron2's catalogs."""

    title: str  # "train" or "val"
    name: str  # in Detectron2's catalogs
    records: list[dict[str, Any]]  # of the images; categories of segments are contiguous ids
    metadata: dict[str, Any]
    reports: list[ImageReport] = field(default_factory=list)  # of the images that were opened

    @property
    def has_truth(self) -> bool:
        """Whether its images are measured, and not only predicted for a server."""
        return bool(self.metadata.get("has_truth", True))

    @property
    def panoptic_json(self) -> str | None:
        return self.metadata.get("panoptic_json")

    @cached_property
    def content(self) -> dict[str, Any]:
        """The contents of `panoptic_json`; its categories are ids of the dataset."""
        return read_annotations(Path(str(self.panoptic_json)))

    @cached_property
    def listed_sizes(self) -> dict[Any, tuple[int, int]]:
        """(height, width) of images in `panoptic_json`, by id."""
        return {
            image["id"]: (image["height"], image["width"])
            for image in (self.content["images"] if self.panoptic_json else ())
            if {"id", "height", "width"} <= image.keys()
        }

    @property
    def class_names(self) -> list[str]:
        return list(self.metadata.get("stuff_classes", ()))

    @property
    def ignore_label(self) -> int:
        return int(self.metadata.get("ignore_label", IGNORE_LABEL))

    @property
    def contiguous(self) -> dict[int, int]:
        """From the dataset's category ids to classes; {} where labels hold classes already."""
        stuff = self.metadata.get("stuff_dataset_id_to_contiguous_id") or {}
        return {**stuff, **(self.metadata.get("thing_dataset_id_to_contiguous_id") or {})}

    @property
    def is_cityscapes(self) -> bool:
        """Whether its labels are those of the official scripts, with the official ids."""
        kind = str(self.metadata.get("evaluator_type", ""))
        return kind.startswith("cityscapes") and len(self.class_names) == 19


@dataclass
class CheckContext:
    """The experiment as composed, and what checks have found out about it."""

    device: str  # `cuda` or `cpu`
    parts: Mapping[str, Callable[[], Any]]  # build the parts, by name; see conf/mode/doctor.yaml
    choice: Mapping[str, str]  # options of parts and of groups in `recipe`
    sizes: Mapping[str, Any]  # crop_size [H, W] and divisibility, in pixels
    train: dict[str, Any]
    checkpoint: dict[str, Any]
    recipe: Mapping[str, Any]
    settings: DoctorSettings
    run_dir: str
    ignore_label: int = IGNORE_LABEL
    image_format: str = "RGB"
    top_k: int = 200  # a model finds fewer objects in an image
    launch_refused: str | None = None  # why the processes of `launch` could not start
    find_unused_parameters: bool = False  # may some take no part in the loss?
    weights: str | None = None  # file or run folder to start from, and what of it
    weights_match: str = "strict"
    pretrained: Mapping[str, Any] | None = None  # what the recipe starts from
    splits: dict[str, Split] = field(default_factory=dict)  # those that are registered
    process_group: Any = None  # may wait for days; None: one process
    _built: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Any:
        """The part of that name, built when it is first asked for; raises what building raises."""
        if name not in self._built:
            self._built[name] = self.parts[name]()
        return self._built[name]

    @property
    def is_custom_dataset(self) -> bool:
        """Whether sizes, areas and crowds need not be listed in its files."""
        return self.choice["dataset"] in {*FORMATS, *importing.FORMATS}

    @property
    def num_processes(self) -> int:
        """Training processes."""
        return comm.get_world_size()

    @property
    def images_per_pass(self) -> int:
        """Images of one forward pass in training, of one process."""
        numbers, processes = self.train, self.num_processes
        passes = accumulation(
            numbers["batch_size"], processes, numbers["images_per_gpu"], numbers["accumulate"]
        )
        return int(numbers["batch_size"] // processes // passes)


class State(str, Enum):
    """Of a check; only FAIL makes the doctor's exit code 1."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    UNCHECKED = "not checked"


@dataclass
class CheckResult:
    """A line of the table; `run_checks` sets its group, name and seconds, those of the check."""

    state: State
    found: str  # what there is, in one line
    hint: str | None = None  # what to do; None where nothing is to be done
    problems: Sequence[str] = ()  # all that is wrong, one a line, if it is more
    group: str = ""
    name: str = ""
    seconds: float = 0.0
    needs: Sequence[str] = ()  # checks that failed, so that this one was not run


ok = partial(CheckResult, State.OK)
warn = partial(CheckResult, State.WARN)  # it will run, but perhaps not as meant
fail = partial(CheckResult, State.FAIL)  # it will not run, or its metrics will be wrong


def from_problems(
    right: str, wrong: str, hint: str, failures: Sequence[str], warnings: Sequence[str] = ()
) -> CheckResult:
    """Red where there are failures, yellow where there are only warnings, else green.

    `right` is found where nothing is wrong; `wrong` follows the number: "images cannot be read".
    """
    problems = [*failures, *warnings]
    if not problems:
        return ok(right)
    found = f"{len(problems):,} {wrong}"
    return fail(found, hint, problems) if failures else warn(found, hint, problems)


@dataclass(frozen=True)
class Check:
    """A check, and its line of the table below the heading `group`."""

    group: str
    name: str
    run: Callable[[CheckContext], CheckResult | None]  # None: nothing of the kind; may raise
    needs: Sequence[str] = ()  # "group: name" of checks that must not fail before
    hint: str = UNEXPECTED_HINT  # what to do when `run` raises


def run_checks(checks: Iterable[Check], context: CheckContext) -> list[CheckResult]:
    """Run checks in their order; of what they raise, only KeyboardInterrupt comes out."""
    results: list[CheckResult] = []
    failed: dict[str, list[str]] = {}  # by each check: those that are the cause
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            logger.info("Checking: %s", group)
        started = time.perf_counter()
        result: CheckResult | None
        if lacking := [cause for name in check.needs for cause in failed.get(name, ())]:
            lacking = list(dict.fromkeys(lacking))
            result = CheckResult(State.UNCHECKED, f"needs {', '.join(lacking)}", needs=lacking)
        else:
            try:
                result = check.run(context)
            except (Exception, SystemExit) as error:  # official scripts end the program
                logger.debug("%s: %s failed", group, check.name, exc_info=True)
                custom = context.is_custom_dataset and isinstance(error, DatasetError)
                result = _from_error(error, CUSTOM_DATASET_HINT if custom else check.hint)
        if result is not None:
            result.group, result.name = group, check.name
            result.seconds = round(time.perf_counter() - started, 3)
            results.append(result)
            if result.state in (State.FAIL, State.UNCHECKED):
                name = f"{group}: {check.name}"
                failed[name] = list(result.needs) or [name]
    return results


def _from_error(error: BaseException, hint: str) -> CheckResult:
    """Red, in the words of an error; its own remedy, where it names one, replaces `hint`."""
    text = str(error) or type(error).__name__
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        text = f"{type(error).__name__}: {text}"  # such as KeyError, whose text is a key
    if isinstance(error, MemoryError):
        text = "there is not enough memory for it"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        hint = "make room on the disk, or choose another run_dir"
    first, *others = [line.strip() for line in text.strip().splitlines() if line.strip()]
    for index, line in enumerate(others):
        if line.startswith("remedy:"):
            hint = " ".join(others[index:]).removeprefix("remedy:").strip()
            return fail(first, hint, others[:index])
    return fail(first, hint, others)
