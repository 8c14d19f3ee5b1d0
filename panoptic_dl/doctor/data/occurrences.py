"""Which classes occur in a split."""

from collections import Counter

from ..patient import Patient
from ..verdicts import State, Verdict, fail, ok, warn
from .cures import Made, cure
from .split import Split

SHOWN = 8


def look_at_occurrences(title: str, patient: Patient) -> Verdict:
    """Classes that never occur: nothing is learned of them, and they have no figure."""
    split = patient.splits[title]
    if not _lists_segments(split) and len(split.reports) < len(split.records):
        return Verdict(State.UNCHECKED, "needs all images: leave doctor.sample out")
    counts = _counts(split)
    names = split.class_names
    absent = [name for index, name in enumerate(names) if not counts[index]]
    if not absent:
        rarest = min(range(len(names)), key=lambda index: counts[index])
        return ok(f"all {len(names)} occur, the rarest is {names[rarest]}")
    if len(absent) == len(names):
        return fail(
            "no class occurs: nothing can be learnt or measured", cure(patient, title, Made.LABELS)
        )
    few = len(absent) <= SHOWN
    return warn(
        f"{len(absent)} of {len(names)} never occur" + (f": {', '.join(absent)}" if few else ""),
        "nothing, if the dataset is a small one; else look at how its labels were made",
        () if few else absent,
    )


def _lists_segments(split: Split) -> bool:
    return "segments_info" in split.records[0]


def _counts(split: Split) -> Counter[int]:
    """Segments by class; pixels where labels are semantic."""
    counts: Counter[int] = Counter()
    if _lists_segments(split):
        for record in split.records:
            counts.update(segment["category_id"] for segment in record["segments_info"])
        return counts
    for report in split.reports:
        counts.update(report.classes)
    return counts
