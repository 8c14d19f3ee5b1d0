"""Whether a run has reproduced a published row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panoptic_dl.report.runs.groups import Group
from panoptic_dl.report.runs.run import Run

from .published import PublishedRow

TOLERANCE, WIDE = 0.5, 1.5  # percentage points
JUDGED = ("PQ", "mIoU")
LEAST_TRAINING = 0.5  # of the published images seen; with fewer a run is a trial

STATED = (
    f"PQ and mIoU within ±{TOLERANCE} of the published figure count as reproduced, at the "
    f"published batch, iterations and fp32; where one of these differs, within ±{WIDE}. A row "
    "is below when one of the two is, and better when its main figure (PQ, or mIoU of a semantic "
    "row) is above. Differences are rounded to one decimal first, as published figures are."
)

# Leaves under these change a network, its data or its optimisation, except those that only say
# where things are and how they are worked through.
PARTS = ("backbone", "head", "decoder", "pixels", "dataset", "optimizer", "schedule", "task")
HARMLESS = ("dataset.root", "dataset.cache", "dataset.max_bad_samples", "schedule.max_iter")
TRAINING = ("optimizer.lr",)  # goes with the batch


@dataclass(frozen=True)
class Verdict:
    """A word, why, and the tolerance that was used (NaN: none)."""

    word: str
    reason: str = ""
    tolerance: float = math.nan

    @property
    def text(self) -> str:
        return f"{self.word} ({self.reason})" if self.reason else self.word

    @property
    def kind(self) -> str:
        """One word for colours: better, reproduced, below, open, failed."""
        if self.word in ("better", "reproduced", "below", "failed"):
            return self.word
        return "open"


NOT_RUN = Verdict("not run")


def judge(group: Group, row: PublishedRow) -> Verdict:
    """The verdict on runs of a row's parts."""
    run = group.first
    if not run.finished:
        open_ended = run.status in ("running", "killed")
        return Verdict(run.status, f"last line {run.moment}" if open_ended else "")
    refused = refusal(run, row)
    if refused:
        return Verdict("no verdict", refused)
    differs = training_differences(run, row)
    tolerance = WIDE if differs else TOLERANCE
    own = {name: found.mean for name in row.figures if (found := group.figure(name)) is not None}
    return verdict(own, row.figures, row.main, tolerance)


def verdict(
    own: Mapping[str, float], published: Mapping[str, float], main: str, tolerance: float
) -> Verdict:
    """Hold figures against published ones, all in percent."""
    if not math.isfinite(own.get(main, math.nan)):
        return Verdict("no verdict", f"{main} is n/a")
    differences = {
        name: round(own[name] - published[name], 1)
        for name in JUDGED
        if name in published and math.isfinite(own.get(name, math.nan))
    }
    # Differences of one decimal are whole tenths but for the last bits of floating point.
    low = [name for name, value in differences.items() if value < -tolerance - 1e-6]
    if low:
        return Verdict("below", "" if low == [main] else " and ".join(low), tolerance)
    if differences[main] > tolerance + 1e-6:
        return Verdict("better", "", tolerance)
    return Verdict("reproduced", "", tolerance)


def refusal(run: Run, row: PublishedRow) -> str:
    """Why figures of this run are not held against the row's; "" where they are."""
    if run.trial:
        return f"trial: {run.trial}"
    recipe = run.choices.get("recipe", row.recipe)
    if recipe not in (row.recipe, *row.other_recipes):
        return f"other recipe: {recipe}"
    images = run.results.get("num_images")
    if None not in (images, row.num_images) and images != row.num_images:
        return f"measured on {images} images, not on all {row.num_images:,}"
    if run.several_looks:
        return "several looks at each image, published figures are of one"
    changed = [name for name in map(_key, run.overrides) if _changes_parts(name)]
    if changed:
        return f"other settings: {', '.join(dict.fromkeys(changed))}"
    seen = _images(run.train)
    if run.mode == "train" and seen < LEAST_TRAINING * row.iterations * row.batch_size:
        share = 100 * seen / (row.iterations * row.batch_size)
        return f"trial: {share:.2g} % of the training"
    return ""


def training_differences(run: Run, row: PublishedRow) -> Sequence[str]:
    """What makes the tolerance wide, for people."""
    if run.mode == "eval":
        return ["weights of unknown training"]
    wanted = {"iterations": row.iterations, "batch_size": row.batch_size, "precision": "fp32"}
    found = []
    for name, value in wanted.items():
        own = run.train.get(name)
        if own != value:
            shown = "unknown" if own is None else f"{own:,}" if isinstance(own, int) else own
            of = f"{value:,}" if isinstance(value, int) else value
            found.append(f"{name.replace('_', ' ')} {shown}, published {of}")
    lr = run.setting("optimizer.lr") if any(_key(o) in TRAINING for o in run.overrides) else None
    return [*found, f"optimizer.lr {lr}"] if lr is not None else found


def recipe_note(run: Run, row: PublishedRow) -> str:
    """Which recipe a run of a corrected one has; "" where there is only one."""
    if not row.other_recipes:
        return ""
    if run.choices.get("recipe") == row.recipe:
        return "old recipe, that of the published figures"
    note = run.published_note or f"published figures are of recipe={row.recipe}"
    return f"corrected recipe: {note}"


def _images(train: Mapping[str, object]) -> float:
    numbers = [train.get(name) for name in ("iterations", "batch_size")]
    if not all(isinstance(number, (int, float)) for number in numbers):
        return 0.0
    return float(numbers[0]) * float(numbers[1])  # type: ignore[arg-type]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _changes_parts(key: str) -> bool:
    harmless = any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
    return "." in key and key.split(".")[0] in PARTS and not harmless and key not in TRAINING
