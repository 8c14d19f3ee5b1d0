"""Checks of a dataset's splits: files, labels, categories, classes, images that are there twice."""

import contextlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_dl.core.images import NUM_IDS
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map
from panoptic_dl.doctor.context import (
    Check,
    CheckContext,
    CheckResult,
    Split,
    State,
    fail,
    from_problems,
    ok,
    warn,
)
from panoptic_dl.doctor.labels import ImageChecker, ImageReport, digest_of
from panoptic_dl.evaluation.coco_instances import read_instances

CHUNK = 8  # images that a process is given at a time
MAX_NAMES = 8  # of classes in a line


def check_layout(title: str, context: CheckContext) -> CheckResult:
    """Register the split, as every run does; its errors name files and remedies."""
    split = Split(title, context.part(title))
    count = len(split.records)
    context.splits[title] = split
    folder, extra = _unlisted(split)
    if not extra:
        return ok(f"{split.name}: {count:,} images")
    return warn(
        f"{split.name}: {count:,} images; {len(extra):,} more in {folder} are not in the dataset, "
        f"such as {min(extra)}",
        f"nothing, if only a part is meant; else a complete {split.panoptic_json}",
    )


def _unlisted(split: Split) -> tuple[Path, set[str]]:
    """Where the images are, and names of others there, if it is one folder."""
    files = [Path(record["file_name"]) for record in split.records]
    folder = files[0].parent
    if len({file.parent for file in files}) > 1:
        return folder, set()
    suffixes = {file.suffix for file in files}
    there = {name for name in os.listdir(folder) if Path(name).suffix in suffixes}
    return folder, there - {file.name for file in files}


# By dataset and origin of a file: downloaded "images" or "labels", or "prepared" by our script.
HINTS = {
    ("cityscapes", "images"): (
        "unzip -o leftImg8bit_trainvaltest.zip 'leftImg8bit/{split}/*' -d {root}/cityscapes "
        "(of cityscapes-dataset.com)"
    ),
    ("cityscapes", "labels"): (
        "unzip -o gtFine_trainvaltest.zip 'gtFine/{split}/*' -d {root}/cityscapes "
        "(of cityscapes-dataset.com); "
    ),
    ("cityscapes", "prepared"): (
        "rm -r {root}/cityscapes/gtFine/cityscapes_panoptic_{split}* "
        "{root}/cityscapes/gtFine/{split}/*/*_labelTrainIds.png; "
        "python scripts/prepare_cityscapes.py {root}"
    ),
    ("coco", "images"): "unzip -o {split}2017.zip -d {root}/coco (of cocodataset.org)",
    ("coco", "labels"): (
        "unzip -o panoptic_annotations_trainval2017.zip -d {root}/coco (of cocodataset.org); "
        "unzip -o {root}/coco/annotations/panoptic_{split}2017.zip -d {root}/coco"
    ),
}
HINTS["cityscapes", "labels"] += HINTS["cityscapes", "prepared"]


def _hint_for(context: CheckContext, split: str, origin: str) -> str:
    """A command where the dataset is known, else what to do with the files that are named."""
    dataset = context.choice["dataset"]
    if dataset.startswith("toy_"):
        return f"rm -r {context.root} (it is drawn again on the next run)"
    known = HINTS.get((dataset, origin)) or HINTS.get((dataset, "labels"))
    if known:
        return known.format(root=context.root, split=split)
    return (
        "mend the files that are named (all of them are in doctor.json), or take them out of the "
        "dataset, then run this again"
    )


# By kind of problem: origin of the files (see HINTS); what is found if all is right, and else.
KINDS: dict[str, tuple[str, str, str]] = {
    "image modes": ("images", "", "images are not RGB or grey"),
    "orientation": ("images", "no image is turned by EXIF", "images are turned by EXIF"),
    "sizes": ("images", "image = label = JSON file", "files have the wrong size"),
    "labels": ("prepared", "whole RGB PNG files", "panoptic labels are none"),
    "label ids": ("prepared", "those of segments_info", "ids are in one of PNG and JSON only"),
    "areas": ("prepared", "those of the pixels", "areas in the JSON file are wrong"),
    "boxes": ("prepared", "those of the pixels", "boxes in the JSON file are wrong"),
    "semantic labels": ("prepared", "whole, all ids in range", "semantic labels are wrong"),
    "agreement": ("prepared", "all labels of an image agree", "labels disagree with others"),
}
OF_PANOPTIC = ("labels", "label ids", "areas", "boxes")


def file_checks(split: str) -> list[Check]:
    """All files of a split are opened by the first check; one check for each kind of problem."""
    group = f"{split} data"
    # Where only some images cannot be read, the others are checked all the same.
    needs = (f"{group}: layout",)
    return [
        Check(group, "images", partial(_check_images, split), needs),
        *(Check(group, kind, partial(_check_kind, split, kind), needs) for kind in KINDS),
    ]


def _check_images(split: str, context: CheckContext) -> CheckResult:
    """Open images and labels; whether the images can be read."""
    opened, settings = context.splits[split], context.settings
    workers = settings.workers or count_cores()
    opened.reports = open_files(
        opened, sample=settings.sample, workers=workers, tick=context.keep_waiting
    )
    count, total = len(opened.reports), len(opened.records)
    amount = f"all {total:,}" if count == total else f"{count:,} of {total:,}"
    right, wrong = f"{amount} can be read", f"of {count:,} cannot be read"
    return _result(split, "images", context, "images", right, wrong)


def open_files(
    split: Split, *, sample: int | None, workers: int, tick: Callable[[], None]
) -> list[ImageReport]:
    """Check the files of a split's images, in its order.

    Args:
        sample: so many, always the same ones; None: all.
        workers: processes; 1 works in this one.
        tick: is called now and then.

    Raises:
        DatasetError: a process was killed.
    """
    records = split.records
    if sample is not None and sample < len(records):
        chosen = random.Random(0).sample(range(len(records)), sample)
        records = [records[index] for index in sorted(chosen)]
    sizes = split.listed_sizes
    jobs = [(record, sizes.get(record.get("image_id"))) for record in records]
    portions = [(jobs[i : i + CHUNK],) for i in range(0, len(jobs), CHUNK)]
    checker = ImageChecker(len(split.class_names), split.ignore_label, split.is_cityscapes)
    # Forked, and before any GPU is used: a new interpreter takes seconds to import everything.
    hint = "\nremedy: fewer of them, doctor.workers=1"
    found = parallel_map(partial(_check_files, checker), portions, workers, hint)
    reports = []
    with Progress(f"{split.title}: looked at", len(jobs)) as progress, closing(found):
        for portion in found:
            reports += portion
            progress.add(len(portion))
            tick()
    return reports


def _check_files(
    checker: ImageChecker, jobs: list[tuple[dict[str, Any], tuple[int, int] | None]]
) -> list[ImageReport]:
    return [checker(record, size) for record, size in jobs]


def _check_kind(split: str, kind: str, context: CheckContext) -> CheckResult | None:
    """What `_check_images` found of one kind of problem."""
    opened = context.splits[split]
    if not opened.reports:
        return CheckResult(State.UNCHECKED, f"needs {split} data: images")
    files = opened.records[0].keys() & {"pan_seg_file_name", "sem_seg_file_name"}
    lacking = {
        **dict.fromkeys(OF_PANOPTIC, "pan_seg_file_name" not in files),
        "semantic labels": "sem_seg_file_name" not in files,
        "agreement": len(files) < 2 and not opened.is_cityscapes,
    }
    if lacking.get(kind):
        return None
    origin, right, wrong = KINDS[kind]
    if kind == "image modes":
        counts = Counter(report.mode for report in opened.reports if report.mode)
        right = ", ".join(f"{count:,} {mode}" for mode, count in counts.most_common())
    return _result(split, kind, context, origin, right, wrong)


def _result(
    split: str, kind: str, context: CheckContext, origin: str, right: str, wrong: str
) -> CheckResult:
    reports = context.splits[split].reports
    problems = [problem for report in reports for problem in report.problems]
    failures, warnings = (
        [p.text for p in problems if p.kind == kind and p.serious is serious]
        for serious in (True, False)
    )
    return from_problems(right, wrong, _hint_for(context, split, origin), failures, warnings)


# What was found where all is right, what the problems are called, failures, warnings.
Findings = tuple[str, str, list[str], list[str]]


def check_json(
    find: Callable[[Split, bool], Findings], title: str, context: CheckContext
) -> CheckResult | None:
    """Check the panoptic JSON file of a split, if it has one.

    Args:
        find: `annotations`, `categories` or `crowds`; gets whether the dataset is a custom one.
    """
    split = context.splits[title]
    if split.panoptic_json is None:
        return None
    right, wrong, failures, warnings = find(split, context.is_custom_dataset)
    file, hint = split.panoptic_json, _hint_for(context, title, "prepared")
    failures = [f"{file}: {problem}" for problem in failures]
    return from_problems(right, wrong, hint, failures, [f"{file}: {w}" for w in warnings])


def annotations(split: Split, custom: bool) -> Findings:
    """Images and segments of the file: none twice, none missing, ids that a PNG can hold."""
    images, entries = split.content["images"], split.content["annotations"]
    failures = []
    for what, values in (
        ("image id", [image.get("id") for image in images]),
        ("annotation of image", [entry.get("image_id") for entry in entries]),
        ("annotation with label file", [entry.get("file_name") for entry in entries]),
    ):
        failures += [f"{n} times the {what} {value}" for value, n in _repeated(values)]
    listed = {image.get("id") for image in images}
    annotated = {entry.get("image_id") for entry in entries}
    for entry in entries:
        if entry.get("image_id") not in listed:
            image_id = entry.get("image_id")
            failures.append(f"an annotation is of image {image_id}, which is not listed")
    for image in images:
        if not custom and not {"height", "width"} <= image.keys():
            failures.append(f"image {image.get('id')} has no height or width")
    for entry in entries:
        for value, n in _repeated([s.get("id") for s in entry.get("segments_info", ())]):
            failures.append(f"{n} segments of {entry.get('file_name')} have the id {value}")
    needed = ("id", "category_id") if custom else ("id", "category_id", "area")
    num_segments = 0
    for name, segment in _segments(split):
        num_segments += 1
        if missing := [key for key in needed if key not in segment]:
            failures.append(f"{name} has no {', '.join(missing)}")
        elif type(segment["id"]) is not int or not 0 < segment["id"] < NUM_IDS:
            failures.append(f"{name}: ids are whole numbers from 1 (0 is void) to {NUM_IDS - 1}")
    unused = [image.get("id") for image in images if image.get("id") not in annotated]
    return (
        f"{len(entries):,} images with {num_segments:,} segments",
        f"problems in {split.panoptic_json}",
        failures,
        [f"image {number} has no annotation: it is not used" for number in unused],
    )


def _segments(split: Split) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and entry of each segment in the panoptic JSON file."""
    for entry in split.content["annotations"]:
        for segment in entry.get("segments_info", ()):
            yield f"segment {segment.get('id')} of {entry.get('file_name')}", segment


def _repeated(values: Iterable[Any]) -> list[tuple[Hashable, int]]:
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def categories(split: Split, custom: bool) -> Findings:
    """Ids, names, things and stuff: one meaning in the file, in the catalog and in segments."""
    names, contiguous = split.class_names, split.contiguous
    things = split.metadata.get("thing_dataset_id_to_contiguous_id")
    is_thing = _is_thing(split)
    failures = []
    if len(is_thing) != len(split.content["categories"]):
        failures.append("two categories have one id")
    for category in split.content["categories"]:
        number, name = category.get("id"), category.get("name")
        if number not in contiguous:
            failures.append(
                f"category {number} ({name}) is none of the dataset's {len(contiguous)}"
            )
            continue
        own = names[contiguous[number]] if names else name
        if name != own:
            failures.append(f"category {number} is {name}, but {own} in the dataset")
        thing = bool(category.get("isthing"))
        if things and thing != (number in things):
            kinds = ("stuff", "a thing")
            failures.append(
                f"category {number} ({name}) is {kinds[thing]}, but {kinds[not thing]} in the "
                "dataset"
            )
    for number in sorted(set(contiguous) - set(is_thing)):
        failures.append(
            f"category {number} ({names[contiguous[number]]}) of the dataset is missing"
        )
    for name, segment in _segments(split):
        if segment.get("category_id") not in is_thing:
            failures.append(f"{name} has the unknown category {segment.get('category_id')}")
    count = sum(is_thing.values())
    return (
        f"{count} things and {len(is_thing) - count} stuff classes, as in the catalog",
        f"categories of {split.panoptic_json} are not those of the dataset",
        failures,
        [],
    )


def _is_thing(split: Split) -> dict[Any, bool]:
    """By the category id in the file."""
    return {c.get("id"): bool(c.get("isthing")) for c in split.content["categories"]}


def crowds(split: Split, custom: bool) -> Findings:
    """`iscrowd` is there, but for a custom dataset, is 0 or 1, and is 1 for things only."""
    is_thing = _is_thing(split)
    failures, warnings = [], []
    num_crowds = total = 0
    for name, segment in _segments(split):
        total += 1
        crowd = segment.get("iscrowd", 0 if custom else None)
        if crowd is None:
            failures.append(f"{name} has no iscrowd")
        elif crowd not in (0, 1):
            failures.append(f"{name} has iscrowd {crowd!r}, not 0 or 1")
        elif crowd:
            num_crowds += 1
            if not is_thing.get(segment.get("category_id"), True):
                warnings.append(f"{name} is a crowd of stuff: it is not measured")
    right = f"{num_crowds:,} of {total:,} segments"
    return right, "segments have a wrong iscrowd", failures, warnings


def check_classes(title: str, context: CheckContext) -> CheckResult:
    """Classes that never occur: nothing is learned of them, and they have no metric."""
    split = context.splits[title]
    counts: Counter[int] = Counter()
    if "segments_info" in split.records[0]:
        for record in split.records:
            counts.update(segment["category_id"] for segment in record["segments_info"])
    elif len(split.reports) < len(split.records):
        return CheckResult(State.UNCHECKED, "needs all images: leave doctor.sample out")
    else:
        for report in split.reports:  # pixels
            counts.update(report.classes)
    names = split.class_names
    absent = [name for index, name in enumerate(names) if not counts[index]]
    if not absent:
        rarest = min(range(len(names)), key=lambda index: counts[index])
        return ok(f"all {len(names)} occur, the rarest is {names[rarest]}")
    if len(absent) == len(names):
        return fail(
            "no class occurs: nothing can be learnt or measured",
            _hint_for(context, title, "labels"),
        )
    found = f"{len(absent)} of {len(names)} never occur"
    hint = "nothing, if the dataset is a small one; else look at how its labels were made"
    if len(absent) > MAX_NAMES:
        return warn(found, hint, absent)
    return warn(f"{found}: {', '.join(absent)}", hint)


def check_instances(title: str, context: CheckContext) -> CheckResult | None:
    """The file of box and mask AP lists every image of the panoptic file, of the same size."""
    split = context.splits[title]
    file = split.metadata.get("json_file")
    panoptic = split.metadata.get("evaluator_type") == "coco_panoptic_seg"
    if file is None or not panoptic or context.choice["task"] != "panoptic":
        return None
    listed = read_instances(file, split.metadata["thing_dataset_id_to_contiguous_id"])
    sizes = split.listed_sizes
    failures = []
    for record in split.records:
        number = record["image_id"]
        if number not in listed:
            failures.append(f"{file}: image {number} ({record['file_name']}) is not listed")
        elif number in sizes and listed[number].size != sizes[number]:
            failures.append(
                f"{file}: image {number} is {listed[number].size}, {sizes[number]} in "
                f"{split.panoptic_json} (height, width)"
            )
    total = sum(len(image.instances) for image in listed.values())
    return from_problems(
        f"{total:,} instances for box and mask AP",
        "images are not as in the panoptic file",
        _hint_for(context, title, "labels"),
        failures,
    )


def check_overlap(context: CheckContext) -> CheckResult:
    """The same bytes under two names; names that both splits have are compared in any case."""
    digests = {
        (title, report.file_name): report.digest
        for title, split in context.splits.items()
        for report in split.reports
        if report.digest is not None
    }
    count = len(digests)
    paths = {
        title: {Path(record["file_name"]).name: record["file_name"] for record in split.records}
        for title, split in context.splits.items()
    }
    shared = sorted(set.intersection(*map(set, paths.values())))
    for title, by_name in paths.items():
        for file in (by_name[name] for name in shared[: context.settings.sample]):
            if (title, file) not in digests:
                with contextlib.suppress(OSError):  # that it cannot be opened is another problem
                    digests[title, file] = digest_of(Path(file).read_bytes())
    files: dict[bytes, list[str]] = defaultdict(list)
    for (title, file), digest in digests.items():
        files[digest].append(f"{file} ({title})")
    return from_problems(
        f"none among {count:,} images",
        "images are there twice",
        "take them out of one of the splits, unless a trial on training images is meant",
        [],
        [
            f"{first} is the same image as {', '.join(others)}"
            for first, *others in files.values()
            if others
        ],
    )
