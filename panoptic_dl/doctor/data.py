"""Checks of a dataset's splits: files, labels, categories, classes, images that are there twice."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import script_command
from panoptic_dl.core.parallel import Progress, count_cores, parallel_map
from panoptic_dl.datasets.categories import read_categories, repeated_stuff
from panoptic_dl.datasets.custom import annotated_images, read_segments
from panoptic_dl.datasets.importing import FORMATS as IMPORTED
from panoptic_dl.datasets.registry import list_files
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
from panoptic_dl.doctor.labels import ImageReport, check_files
from panoptic_dl.evaluation.coco_instances import read_instances

SPLITS = ("train", "val")
STUFF_HINT = (
    '"isthing": 1 in the JSON files for what is counted; else one segment of a class in an image'
)
CHUNK = 8  # images that a process is given at a time
MAX_NAMES = 8  # of classes in a line

SEE_ROOT = "dataset.root must be the folder that holds the dataset's folder (DETECTRON2_DATASETS)"
PREPARE = "correct the file that is named, or prepare the dataset again (docs/how-to/data.md)"
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
        f"{script_command('prepare_cityscapes')} {{root}}"
    ),
    ("coco", "images"): "unzip -o {split}2017.zip -d {root}/coco (of cocodataset.org)",
    ("coco", "labels"): (
        "unzip -o panoptic_annotations_trainval2017.zip -d {root}/coco (of cocodataset.org); "
        "unzip -o {root}/coco/annotations/panoptic_{split}2017.zip -d {root}/coco"
    ),
}
HINTS["cityscapes", "labels"] += HINTS["cityscapes", "prepared"]

# By kind of problem: origin of the files (see HINTS); what is found if all is right, and else.
KINDS: dict[str, tuple[str, str, str]] = {
    "images": ("images", "{amount} can be read", "of {count:,} cannot be read"),
    "image modes": ("images", "{modes}", "images have more than 8 bits a channel"),
    "orientation": ("images", "no image is turned by EXIF", "images are turned by EXIF"),
    "sizes": ("labels", "image = label = JSON file", "files have the wrong size"),
    "labels": ("prepared", "complete RGB PNG files", "panoptic labels are none"),
    "label ids": ("prepared", "those of segments_info", "ids are in one of PNG and JSON only"),
    "areas": ("prepared", "those of the pixels", "areas in the JSON file are wrong"),
    "semantic labels": ("prepared", "complete, all ids in range", "semantic labels are wrong"),
    "agreement": ("prepared", "all labels of an image agree", "labels disagree with others"),
}
IN_HEADERS = ("images", "image modes", "orientation", "sizes", "labels", "semantic labels")
"""Kinds that loaders and evaluations find by themselves, by `core.headers`, as "agreement" may."""
OF_PANOPTIC = ("labels", "label ids", "areas")


def checks() -> list[Check]:
    """Both splits: the catalog, the JSON file, every image and label."""
    found = []
    layouts = [f"{split} data: layout" for split in SPLITS]
    for split, layout in zip(SPLITS, layouts, strict=True):
        group, needs = f"{split} data", [layout]
        found += [
            Check(group, "layout", partial(_check_layout, split), hint=SEE_ROOT),
            Check(group, "JSON file", partial(_check_json, split), needs, PREPARE),
            # Where only some images cannot be read, the others are checked all the same.
            *(Check(group, kind, partial(_check_kind, split, kind), needs) for kind in KINDS),
            Check(group, "classes", partial(_check_classes, split), needs, PREPARE),
            Check(group, "things and stuff", partial(_check_stuff, split), needs, PREPARE),
            Check(group, "objects", partial(_check_objects, split), needs, PREPARE),
        ]
    instances = partial(_check_instances, "val")
    return [
        *found,
        Check("val data", "instances file", instances, layouts[1:], PREPARE),
        Check("both splits", "overlap", _check_overlap, layouts, PREPARE),
    ]


def _hint_for(context: CheckContext, split: str, origin: str) -> str:
    """A command where the dataset is known, else what to do with the files that are named."""
    dataset = context.choice["dataset"]
    if dataset.startswith("toy_"):
        return f"rm -r {context.part('root')} (it is drawn again on the next run)"
    known = HINTS.get((dataset, origin)) or HINTS.get((dataset, "labels"))
    if known:
        return known.format(root=context.part("root"), split=split)
    return (
        "mend the files that are named (all of them are in doctor.json), or take them out of the "
        "dataset, then run this again"
    )


def _check_layout(title: str, context: CheckContext) -> CheckResult:
    """Register the split, as every run does; its errors name files and remedies."""
    name = context.part(title)
    split = Split(title, name, DatasetCatalog.get(name), MetadataCatalog.get(name).as_dict())
    files = [Path(record["file_name"]) for record in split.records]
    context.splits[title] = split
    found, folder, extra = f"{split.name}: {len(files):,} images", files[0].parent, set[str]()
    # An import may have made both splits of one folder.
    if len({file.parent for file in files}) == 1 and context.choice["dataset"] not in IMPORTED:
        suffixes = {file.suffix for file in files}
        extra = {name for name in list_files(folder, "") if Path(name).suffix in suffixes}
        extra -= {file.name for file in files}
    if not extra:
        return ok(found)
    return warn(
        f"{found}; {len(extra):,} more in {folder} are not in the dataset, such as {min(extra)}",
        f"nothing, if only a part is meant; else a complete {split.panoptic_json}",
    )


def _open_files(split: Split, sample: int | None, workers: int) -> list[ImageReport]:
    """Check the files of a split's images, or of `sample` of them, always the same ones."""
    records = split.records
    if sample is not None and sample < len(records):
        chosen = random.Random(0).sample(range(len(records)), sample)
        records = [records[index] for index in sorted(chosen)]
    jobs = [(record, split.listed_sizes.get(record.get("image_id"))) for record in records]
    check = partial(
        check_files,
        num_classes=len(split.class_names),
        ignore_label=split.ignore_label,
        is_cityscapes=split.is_cityscapes,
    )
    # Forked, and before any GPU is used: a new interpreter takes seconds to import everything.
    hint = "\nremedy: fewer of them, doctor.workers=1"
    found = parallel_map(check, jobs, workers, hint, CHUNK)
    reports: list[ImageReport] = []
    with Progress(f"{split.title}: checked", len(jobs)) as progress, closing(found):
        for report in found:
            reports.append(report)
            progress.add(1)
    return reports


def _check_kind(title: str, kind: str, context: CheckContext) -> CheckResult | None:
    """One kind of problem with files, which are opened for the first kind, "images"."""
    split, settings = context.splits[title], context.settings
    if kind == "images":
        split.reports = _open_files(split, settings.sample, settings.workers or count_cores())
    if not split.reports:
        return CheckResult(State.UNCHECKED, f"needs {title} data: images")
    files = split.records[0].keys() & {"pan_seg_file_name", "sem_seg_file_name"}
    if (
        (kind in OF_PANOPTIC and "pan_seg_file_name" not in files)
        or (kind == "semantic labels" and "sem_seg_file_name" not in files)
        or (kind == "agreement" and len(files) < 2 and not split.is_cityscapes)
    ):
        return None
    count, total = len(split.reports), len(split.records)
    modes = Counter(report.mode for report in split.reports if report.mode)
    facts = {
        "count": count,
        "amount": f"all {total:,}" if count == total else f"{count:,} of {total:,}",
        "modes": ", ".join(f"{number:,} {mode}" for mode, number in modes.most_common()),
    }
    origin, right, wrong = KINDS[kind]
    problems = [p for report in split.reports for p in report.problems if p.kind == kind]
    if waiting := _unchecked(split, kind, [p for p in problems if p.serious]):
        return waiting
    origins = dict.fromkeys(problem.origin or origin for problem in problems)
    hints = dict.fromkeys(_hint_for(context, title, each) for each in origins or (origin,))
    return from_problems(
        right.format(**facts),
        wrong.format(**facts),
        "; ".join(hints),
        [problem.text for problem in problems if problem.serious],
        [problem.text for problem in problems if not problem.serious],
    )


def _unchecked(split: Split, kind: str, failures: Sequence[Any] = ()) -> CheckResult | None:
    """Not checked, where images have other problems that a kind of problem hides behind."""
    reasons = [report.unchecked[kind] for report in split.reports if kind in report.unchecked]
    if failures or not reasons:
        return None
    needs = ", ".join(f"{split.title} data: {reason}" for reason in dict.fromkeys(reasons))
    count = f"{len(reasons):,} of {len(split.reports):,} images"
    return CheckResult(State.UNCHECKED, f"needs {needs}, in {count}")


def _check_json(title: str, context: CheckContext) -> CheckResult | None:
    """The panoptic JSON file, if there is one; its readers raise what is wrong in it.

    Official files list areas and crowds, which custom ones need not.
    """
    split = context.splits[title]
    if split.panoptic_json is None:
        return None
    file, content = Path(split.panoptic_json), split.content
    hint = _hint_for(context, title, "prepared")
    classes, images = read_categories(file), annotated_images(content, file)
    things = split.metadata.get("thing_dataset_id_to_contiguous_id") or {}
    here = {c["id"]: (c["name"], things and c["isthing"]) for c in classes.categories()}
    there = {n: (split.class_names[c], things and n in things) for n, c in split.contiguous.items()}
    for number in here | there:
        if (own := here.get(number)) != (wanted := there.get(number)):
            return fail(f"{file}: category {number} is {own}, in the dataset {wanted}", hint)
    contiguous = {category: index for index, category in enumerate(classes.category_ids)}
    needed = () if context.is_custom_dataset else ("area", "iscrowd")
    segments: list[dict[str, Any]] = []
    for annotation in content["annotations"]:
        segments += read_segments(annotation, file, contiguous, classes.thing_ids)
        for segment in annotation["segments_info"]:
            if missing := [key for key in needed if key not in segment]:
                name = f"segment {segment['id']} of {annotation['file_name']}"
                return fail(f"{file}: {name} has no {', '.join(missing)}", hint)
    crowds = [segment for segment in segments if segment["iscrowd"]]
    stuff = len(classes) - len(classes.thing_ids)
    odd = [
        f"segment {s['id']}, a crowd of stuff, is not measured" for s in crowds if not s["isthing"]
    ]
    unused = [image["id"] for image in content["images"] if image["id"] not in images]
    odd += [f"image {number} has no annotation: it is not used" for number in unused]
    return from_problems(
        f"{len(images):,} images with {len(segments):,} segments, {len(crowds):,} of them crowds; "
        f"{len(classes.thing_ids)} things and {stuff} stuff classes, as in the catalog",
        f"problems in {file}",
        hint,
        [],
        [f"{file}: {text}" for text in odd],
    )


def _check_classes(title: str, context: CheckContext) -> CheckResult | None:
    """Classes that never occur: nothing is learned of them, and they have no metric."""
    split = context.splits[title]
    if not split.has_truth:
        return None
    counts: Counter[int] = Counter()
    if "segments_info" in split.records[0]:
        for record in split.records:
            counts.update(segment["category_id"] for segment in record["segments_info"])
    elif len(split.reports) < len(split.records):
        return CheckResult(State.UNCHECKED, "needs all images: leave doctor.sample out")
    elif waiting := _unchecked(split, "semantic labels"):
        return waiting
    else:
        for report in split.reports:  # pixels
            counts.update(report.classes)
    names = split.class_names
    absent = [name for index, name in enumerate(names) if not counts[index]]
    if not absent:
        rarest = min(range(len(names)), key=lambda index: counts[index])
        return ok(f"all {len(names)} occur, the rarest is {names[rarest]}")
    if len(absent) == len(names):
        hint = _hint_for(context, title, "labels")
        return fail("no class occurs: nothing can be learned or measured", hint)
    found = f"{len(absent)} of {len(names)} never occur"
    hint = "nothing, if the dataset is a small one; else check how its labels were made"
    if len(absent) > MAX_NAMES:
        return warn(found, hint, absent)
    return warn(f"{found}: {', '.join(absent)}", hint)


def _check_stuff(title: str, context: CheckContext) -> CheckResult | None:
    """There are things, and an image has one segment of a stuff class at most."""
    split = context.splits[title]
    if context.choice["task"] != "panoptic" or not split.has_truth:
        return None
    things = set((split.metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
    if repeated := repeated_stuff(split.records, split.class_names, things):
        return warn(repeated, STUFF_HINT)
    if not things:
        return warn("all classes are stuff: no object is told apart from another", STUFF_HINT)
    return ok("an image has one segment of a stuff class at most")


def _check_objects(title: str, context: CheckContext) -> CheckResult | None:
    """No image has more objects than a model finds: as Detectron2's, it finds fewer than top_k."""
    split, top_k = context.splits[title], context.top_k
    if context.choice["task"] != "panoptic" or not split.has_truth:
        return None
    things = set((split.metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
    objects = [
        sum(s["category_id"] in things and not s.get("iscrowd") for s in record["segments_info"])
        for record in split.records
    ]
    most = max(objects)
    if most < top_k:
        return ok(f"{most:,} in an image at most")
    file, needed = split.records[objects.index(most)]["file_name"], most + most // 4 + 1
    divisor = max(split.metadata["label_divisor"], 10 ** len(str(needed)))
    return warn(
        f"{sum(count >= top_k for count in objects):,} of {len(objects):,} images have "
        f"dataset.top_k={top_k} objects or more, of which a model finds fewer, such as {most:,} in "
        f"{file}",
        f"dataset.top_k={needed} dataset.label_divisor={divisor}",
    )


def _check_instances(title: str, context: CheckContext) -> CheckResult | None:
    """The file of box and mask AP has the images of the panoptic file; its reader says else."""
    split = context.splits[title]
    measured = split.has_truth and "json_file" in split.metadata
    if context.choice["task"] != "panoptic" or not measured:
        return None
    try:
        images = read_instances(split.name, split.records) or {}
    except EvaluationError as error:
        return fail(str(error), _hint_for(context, title, "labels"))
    total = sum(len(image.instances) for image in images.values())
    return ok(f"{total:,} instances for box and mask AP")


def _check_overlap(context: CheckContext) -> CheckResult:
    """The same bytes under two names, among the images that were opened."""
    digests = {
        (report.file_name, title): report.digest
        for title, split in context.splits.items()
        for report in split.reports
        if report.digest is not None
    }
    same: dict[bytes, list[str]] = defaultdict(list)
    for (file, title), digest in digests.items():
        same[digest].append(f"{file} ({title})")
    return from_problems(
        f"none among {len(digests):,} images",
        "images are there twice",
        "take them out of one of the splits, unless a trial on training images is meant",
        [],
        [f"{a} is the same image as {', '.join(others)}" for a, *others in same.values() if others],
    )
