"""The panoptic JSON file by itself: who is listed, and how often."""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from ..patient import Patient
from ..verdicts import Verdict, judge
from .cures import Made, cure
from .split import Split

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
