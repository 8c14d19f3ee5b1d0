"""Rows of what was found in images and labels: one for each kind of problem."""

from collections import Counter
from functools import partial

from ..checks import Check
from ..machine.cores import count_cores
from ..patient import Patient
from ..verdicts import State, Verdict, judge
from .cures import Made, cure
from .report import Kind
from .scan import scan

# What each row is about: who made the files; green, and red behind the number of problems.
KINDS: dict[Kind, tuple[Made, str, str]] = {
    "image modes": (Made.IMAGES, "", "images are not RGB or grey"),
    "orientation": (Made.IMAGES, "no image is turned by EXIF", "images are turned by EXIF"),
    "sizes": (Made.IMAGES, "image = label = JSON file", "files have the wrong size"),
    "labels": (Made.PREPARED, "whole RGB PNG files", "panoptic labels are none"),
    "label ids": (Made.PREPARED, "those of segments_info", "ids are in one of PNG and JSON only"),
    "areas": (Made.PREPARED, "those of the pixels", "areas in the JSON file are wrong"),
    "boxes": (Made.PREPARED, "those of the pixels", "boxes in the JSON file are wrong"),
    "semantic labels": (Made.PREPARED, "whole, all ids in range", "semantic labels are wrong"),
    "agreement": (Made.PREPARED, "all labels of an image agree", "labels disagree with others"),
}
OF_PANOPTIC = ("labels", "label ids", "areas", "boxes")


def look_at_files(split: str, patient: Patient) -> Verdict:
    """Open images and labels; whether the images can be read."""
    of = patient.splits[split]
    settings = patient.settings
    of.reports = scan(
        of,
        sample=settings.sample,
        workers=settings.workers or count_cores(),
        tick=patient.tell_others,
    )
    opened, there = len(of.reports), len(of.records)
    amount = f"all {there:,}" if opened == there else f"{opened:,} of {there:,}"
    return _verdict(
        split,
        "images",
        patient,
        Made.IMAGES,
        right=f"{amount} can be read",
        wrong=f"of {opened:,} cannot be read",
    )


def look_up(split: str, kind: Kind, patient: Patient) -> Verdict | None:
    """What `look_at_files` found of one kind."""
    of = patient.splits[split]
    record = of.records[0]
    if not of.reports:
        return Verdict(State.UNCHECKED, f"needs {split} data: images")
    if kind in OF_PANOPTIC and "pan_seg_file_name" not in record:
        return None
    if kind == "semantic labels" and "sem_seg_file_name" not in record:
        return None
    both = {"pan_seg_file_name", "sem_seg_file_name"} <= record.keys()
    if kind == "agreement" and not (both or of.is_cityscapes):
        return None
    made, right, wrong = KINDS[kind]
    if kind == "image modes":
        counts = Counter(report.mode for report in of.reports if report.mode)
        right = ", ".join(f"{count:,} {mode}" for mode, count in counts.most_common())
    return _verdict(split, kind, patient, made, right=right, wrong=wrong)


def _verdict(
    split: str, kind: Kind, patient: Patient, made: Made, *, right: str, wrong: str
) -> Verdict:
    problems = [
        problem
        for report in patient.splits[split].reports
        for problem in report.problems
        if problem.kind == kind
    ]
    return judge(
        right,
        wrong,
        cure(patient, split, made),
        [problem.text for problem in problems if problem.serious],
        [problem.text for problem in problems if not problem.serious],
    )


def checks_of(split: str) -> list[Check]:
    """One row a kind."""
    group = f"{split} data"
    layout = f"{group}: layout"
    return [
        Check(group, "images", partial(look_at_files, split), needs=(layout,)),
        *(
            # Where only some images cannot be read, the others were looked at all the same.
            Check(group, kind, partial(look_up, split, kind), needs=(layout,))
            for kind in KINDS
        ),
    ]
