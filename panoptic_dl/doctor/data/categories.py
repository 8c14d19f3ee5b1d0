"""The categories of the panoptic JSON file against the classes of the dataset; crowds."""

from collections.abc import Iterator
from typing import Any

from ..patient import Patient
from ..verdicts import Verdict, judge
from .cures import Made, cure
from .split import Split


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
