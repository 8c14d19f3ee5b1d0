"""Whether a split can be registered at all: what its catalog function says.

Rows of what was found in images and labels: one for each kind of problem.

The panoptic JSON file by itself: who is listed, and how often.

The categories of the panoptic JSON file against the classes of the dataset; crowds.

Which classes occur in a split.

COCO's instances file, which box and mask AP are measured with.

What mends a file, by dataset and by who made the file.

Images that are there twice: in both splits, or in one.
"""

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_dl.core.parallel import count_cores
from panoptic_dl.doctor.context import Check, Patient, State, Verdict, fail, judge, ok, warn
from panoptic_dl.doctor.labels import Kind, Split, digest_of, scan
from panoptic_dl.evaluation.coco_instances import read_instances


def look_at_layout(title: str, patient: Patient) -> Verdict:
    """Register the split, as every run does; its errors name files and remedies."""
    split = Split(title, patient.part(title))
    count = len(split.records)
    patient.splits[title] = split
    extra = _unlisted(split)
    if extra:
        example, *_ = sorted(extra)
        return warn(
            f"{split.name}: {count:,} images; {len(extra):,} more in {_folder(split)} are not in "
            f"the dataset, such as {example}",
            f"nothing, if only a part is meant; else a complete {split.panoptic_json}",
        )
    return ok(f"{split.name}: {count:,} images")


def _folder(split: Split) -> Path:
    return Path(split.records[0]["file_name"]).parent


def _unlisted(split: Split) -> set[str]:
    """Images beside those of the dataset, where all of these lie in one folder."""
    names = [os.path.split(record["file_name"]) for record in split.records]
    folders = Counter(folder for folder, _ in names)
    if len(folders) > 1:
        return set()
    suffixes = {os.path.splitext(name)[1] for _, name in names}
    with os.scandir(next(iter(folders)) or ".") as entries:
        there = {e.name for e in entries if os.path.splitext(e.name)[1] in suffixes}
    return there - {name for _, name in names}


class Made(Enum):
    """Who made a file."""

    IMAGES = "downloaded images"
    LABELS = "downloaded labels"
    PREPARED = "labels that our script makes of downloaded ones"


Cure = Callable[[str, str], str]  # of root and split


def _cityscapes_prepared(root: str, split: str) -> str:
    base = f"{root}/cityscapes/gtFine"
    return (
        f"rm -r {base}/cityscapes_panoptic_{split}* {base}/{split}/*/*_labelTrainIds.png; "
        f"python scripts/prepare_cityscapes.py {root}"
    )


CURES: dict[tuple[str, Made], Cure] = {
    ("cityscapes", Made.IMAGES): lambda root, split: (
        f"unzip -o leftImg8bit_trainvaltest.zip 'leftImg8bit/{split}/*' -d {root}/cityscapes "
        "(of cityscapes-dataset.com)"
    ),
    ("cityscapes", Made.LABELS): lambda root, split: (
        f"unzip -o gtFine_trainvaltest.zip 'gtFine/{split}/*' -d {root}/cityscapes "
        f"(of cityscapes-dataset.com); {_cityscapes_prepared(root, split)}"
    ),
    ("cityscapes", Made.PREPARED): _cityscapes_prepared,
    ("coco", Made.IMAGES): lambda root, split: (
        f"unzip -o {split}2017.zip -d {root}/coco (of cocodataset.org)"
    ),
    ("coco", Made.LABELS): lambda root, split: (
        f"unzip -o panoptic_annotations_trainval2017.zip -d {root}/coco (of cocodataset.org); "
        f"unzip -o {root}/coco/annotations/panoptic_{split}2017.zip -d {root}/coco"
    ),
}


def cure(patient: Patient, split: str, made: Made) -> str:
    """A command where the dataset is known, else what to do with the files that are named."""
    dataset = patient.choice["dataset"]
    if dataset.startswith("toy_"):
        return f"rm -r {patient.root} (it is drawn again on the next run)"
    known = CURES.get((dataset, made)) or CURES.get((dataset, Made.LABELS))
    if known is not None:
        return known(patient.root, split)
    return (
        "mend the files that are named (all of them are in doctor.json), or take them out of the "
        "dataset, then run this again"
    )


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


NEEDED = ("id", "category_id")
MEASURED = (*NEEDED, "area")  # the official scripts read all of them
LARGEST_ID = 256**3 - 1


def look_at_annotations(title: str, patient: Patient) -> Verdict | None:
    """Images and segments of the file: none twice, none missing, ids that a PNG can hold."""
    split = patient.splits[title]
    if split.panoptic_json is None:
        return None
    content = split.content
    num_segments = sum(len(a.get("segments_info", ())) for a in content["annotations"])
    file, own = split.panoptic_json, patient.has_own_data
    return judge(
        f"{len(content['annotations']):,} images with {num_segments:,} segments",
        f"problems in {file}",
        cure(patient, title, Made.PREPARED),
        [
            f"{file}: {problem}"
            for problem in (*_listed_badly(split, own=own), *_segments(split, own=own))
        ],
        [f"{file}: {problem}" for problem in _unused(split)],
    )


def _listed_badly(split: Split, *, own: bool) -> Iterator[str]:
    images, annotations = split.content["images"], split.content["annotations"]
    for what, values in (
        ("image id", [image.get("id") for image in images]),
        ("annotation of image", [a.get("image_id") for a in annotations]),
        ("annotation with label file", [a.get("file_name") for a in annotations]),
    ):
        for value, count in _several(values):
            yield f"{count} times the {what} {value}"
    known = {image.get("id") for image in images}
    for annotation in annotations:
        if annotation.get("image_id") not in known:
            yield f"an annotation is of image {annotation.get('image_id')}, which is not listed"
    for image in images:
        if not own and not {"height", "width"} <= image.keys():
            yield f"image {image.get('id')} has no height or width"


def _unused(split: Split) -> Iterator[str]:
    annotated = {a.get("image_id") for a in split.content["annotations"]}
    for image in split.content["images"]:
        if image.get("id") not in annotated:
            yield f"image {image.get('id')} has no annotation: it is not used"


def _segments(split: Split, *, own: bool) -> Iterator[str]:
    needed = NEEDED if own else MEASURED
    for annotation in split.content["annotations"]:
        where = annotation.get("file_name")
        segments = annotation.get("segments_info", ())
        for number, count in _several([segment.get("id") for segment in segments]):
            yield f"{count} segments of {where} have the id {number}"
        for segment in segments:
            missing = [key for key in needed if key not in segment]
            if missing:
                yield f"segment {segment.get('id')} of {where} has no {', '.join(missing)}"
            elif type(segment["id"]) is not int or not 0 < segment["id"] <= LARGEST_ID:
                yield (
                    f"segment {segment['id']} of {where}: ids are whole numbers from 1 (0 is "
                    f"void) to {LARGEST_ID}"
                )


def _several(values: Iterable[Any]) -> list[tuple[Hashable, int]]:
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def look_at_categories(title: str, patient: Patient) -> Verdict | None:
    """Ids, names, things and stuff: one meaning in the file, in the catalog and in segments."""
    split = patient.splits[title]
    if split.panoptic_json is None:
        return None
    things = _things(split)
    count = sum(bool(thing) for thing in things.values())
    return judge(
        f"{count} things and {len(things) - count} stuff classes, as in the catalog",
        f"categories of {split.panoptic_json} are not those of the dataset",
        cure(patient, title, Made.PREPARED),
        [f"{split.panoptic_json}: {problem}" for problem in _categories(split)],
    )


def _things(split: Split) -> dict[Any, bool]:
    """Whether a category has instances, by the id in the file."""
    return {c.get("id"): bool(c.get("isthing")) for c in split.content["categories"]}


def _categories(split: Split) -> Iterator[str]:
    names, contiguous = split.class_names, split.contiguous
    things = split.metadata.get("thing_dataset_id_to_contiguous_id")
    listed = _things(split)
    if len(listed) != len(split.content["categories"]):
        yield "two categories have one id"
    for category in split.content["categories"]:
        number, name = category.get("id"), category.get("name")
        if number not in contiguous:
            yield f"category {number} ({name}) is none of the dataset's {len(contiguous)}"
            continue
        if names and name != names[contiguous[number]]:
            yield f"category {number} is {name}, but {names[contiguous[number]]} in the dataset"
        if things and bool(category.get("isthing")) != (number in things):
            kinds = ("stuff", "a thing")
            yield (
                f"category {number} ({name}) is {kinds[bool(category.get('isthing'))]}, but "
                f"{kinds[number in things]} in the dataset"
            )
    for number in sorted(set(contiguous) - set(listed)):
        yield f"category {number} ({names[contiguous[number]]}) of the dataset is missing"
    for annotation in split.content["annotations"]:
        for segment in annotation.get("segments_info", ()):
            if segment.get("category_id") not in listed:
                yield (
                    f"segment {segment.get('id')} of {annotation.get('file_name')} has the "
                    f"unknown category {segment.get('category_id')}"
                )


def look_at_crowds(title: str, patient: Patient) -> Verdict | None:
    """`iscrowd` is there, but for own data, is 0 or 1, and is 1 for things only."""
    split = patient.splits[title]
    if split.panoptic_json is None:
        return None
    things = _things(split)
    failures, warnings = [], []
    default = 0 if patient.has_own_data else None
    crowds = total = 0
    for annotation in split.content["annotations"]:
        for segment in annotation.get("segments_info", ()):
            crowd, total = segment.get("iscrowd", default), total + 1
            where = f"segment {segment.get('id')} of {annotation.get('file_name')}"
            if crowd not in (0, 1):
                failures.append(
                    f"{split.panoptic_json}: {where} has "
                    + ("no iscrowd" if crowd is None else f"iscrowd {crowd!r}, not 0 or 1")
                )
                continue
            crowds += crowd
            if crowd and not things.get(segment.get("category_id"), True):
                warnings.append(
                    f"{split.panoptic_json}: {where} is a crowd of stuff: it is not measured"
                )
    return judge(
        f"{crowds:,} of {total:,} segments",
        "segments have a wrong iscrowd",
        cure(patient, title, Made.PREPARED),
        failures,
        warnings,
    )


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


def look_at_instances(title: str, patient: Patient) -> Verdict | None:
    """It can be read, and lists every image of the panoptic file, of the same size."""
    split = patient.splits[title]
    file = split.metadata.get("json_file")
    panoptic = split.metadata.get("evaluator_type") == "coco_panoptic_seg"
    if file is None or not panoptic or patient.choice["task"] != "panoptic":
        return None
    truth = read_instances(file, split.metadata["thing_dataset_id_to_contiguous_id"])
    sizes = split.listed_sizes
    failures = []
    for record in split.records:
        number = record["image_id"]
        if number not in truth:
            failures.append(f"{file}: image {number} ({record['file_name']}) is not listed")
        elif number in sizes and truth[number].size != sizes[number]:
            failures.append(
                f"{file}: image {number} is {truth[number].size}, {sizes[number]} in "
                f"{split.panoptic_json} (height, width)"
            )
    total = sum(len(image.instances) for image in truth.values())
    return judge(
        f"{total:,} instances for box and mask AP",
        "images are not as in the panoptic file",
        cure(patient, title, Made.LABELS),
        failures,
    )


CURE = "take them out of one of the splits, unless a trial on training images is meant"


def look_for_overlap(patient: Patient) -> Verdict:
    """The same bytes under two names; names that both splits have are compared in any case."""
    files: dict[bytes, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    for title, split in patient.splits.items():
        for name, digest in {r.file_name: r.digest for r in split.reports}.items():
            if digest is not None:
                files[digest][title].append(name)
                count += 1
    for title, name, digest in _same_names(patient):
        if name not in files[digest][title]:
            files[digest][title].append(name)
    warnings = []
    for of_digest in files.values():
        names = [(title, name) for title, found in of_digest.items() for name in found]
        if len(names) > 1:
            first, *others = (f"{name} ({title})" for title, name in names)
            warnings.append(f"{first} is the same image as {', '.join(others)}")
    return judge(f"none among {count:,} images", "images are there twice", CURE, [], warnings)


def _same_names(patient: Patient) -> list[tuple[str, str, bytes]]:
    """Digests of images that a sample may have left out, but whose name is in both splits."""
    by_name: list[dict[str, str]] = []
    titles = list(patient.splits)
    for split in patient.splits.values():
        by_name.append({Path(r["file_name"]).name: r["file_name"] for r in split.records})
    shared = set.intersection(*(set(names) for names in by_name))
    found = []
    for title, names in zip(titles, by_name, strict=True):
        known = {report.file_name for report in patient.splits[title].reports}
        for name in sorted(shared)[: patient.settings.sample]:
            if names[name] not in known:
                with contextlib.suppress(OSError):  # not opened, so not this row's business
                    data = Path(names[name]).read_bytes()
                    found.append((title, names[name], digest_of(data)))
    return found
