"""COCO's instances format: one JSON of images, categories and polygons or run-length codes a split.

annotations/instances_<split>.json    COCO, CVAT, Datumaro; images below images/ or <split>2017/
<split>/_annotations.coco.json        Roboflow; images beside it
result.json                           Label Studio; images below images/
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import read_size, require_listed_size
from panoptic_dl.core.masks import InstancesFile, read_instances_file
from panoptic_dl.datasets.formats.base import (
    IMAGES,
    SPLITS,
    Export,
    ImageFinder,
    Instance,
    Sample,
    by_split,
    has_keys,
    list_files,
    merge_names,
    split_of,
)

OTHERS = ("person_keypoints_", "captions_", "panoptic_", "stuff_", "image_info_", "labels_")
DEPTH = 3  # folders below the root in which JSON files are looked for


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is none of these."""
    files = find_files(root)
    if any(file.name == "_annotations.coco.json" for file in files):
        return "an export of Roboflow (COCO segmentation)"
    return f"COCO instances ({files[0].relative_to(root)})" if files else ""


def find_files(root: Path) -> list[Path]:
    """The JSON files in this format below `root`."""
    images = {path.with_suffix("") for path in list_files(root, IMAGES)}
    files = [
        root / path
        for path in list_files(root, [".json"])
        if len(path.parts) <= DEPTH and not path.name.startswith(OTHERS)
        if path.with_suffix("") not in images  # of one image
    ]
    found = [file for file in files if has_keys(file, "images", "annotations", "categories")]
    found = [file for file in found if not has_keys(file, "segments_info")]  # panoptic labels
    return [file for file in found if file.name.startswith("instances_")] or found


def read(root: Path) -> Export:
    """All JSON files of the folder; categories of the same name are one class.

    Raises:
        DatasetError: there is none, one is not as in that format, or an image is missing.
    """
    files = find_files(root)
    if not files:
        raise DatasetError(
            f"no JSON file in COCO's instances format below {root}: it holds images, annotations "
            "and categories"
        )
    contents = [read_instances_file(file) for file in files]
    used = {i["category_id"] for c in contents for of in c.instances.values() for i in of}
    tables = [_names(file, content, used) for file, content in zip(files, contents, strict=True)]
    categories, ids, notes = merge_names(tables)
    if len(tables[0]) < len(contents[0].categories):
        name = contents[0].categories[0]["name"]
        notes.append(f"the category {name!r} is the group of all others, and no class")
    find, samples, seen = ImageFinder(root), [], set()
    for file, content, numbers in zip(files, contents, ids, strict=True):
        split = _split(file.relative_to(root))
        for number, image in content.images.items():
            instances = [
                Instance(numbers[i["category_id"]], i["segmentation"], i["iscrowd"])
                for i in content.instances[number]
            ]
            found = find(image["file_name"], file, split)
            label = partial(_label, found, (image["height"], image["width"]), instances)
            image_id: Any = number if (split, number) not in seen else None
            seen.add((split, number))
            samples.append((split, Sample(found, label, image_id)))
        notes += [f"{file.relative_to(root)}: {bad}; it is left out" for bad in content.bad_masks]
    if twice := len(samples) - len({(split, sample.image) for split, sample in samples}):
        notes.append(f"{twice} images are listed again, and count again")
    return Export(categories, by_split(samples), notes, objects_only=True)


def _names(file: Path, content: InstancesFile, used: set[Any]) -> list[tuple[Any, str]]:
    """Id and name of the categories, without that which Roboflow puts above all others."""
    rows = list(content.categories.values())
    for row in rows:
        if not isinstance(row.get("name"), str) or not row["name"].strip():
            raise DatasetError(f'{file}: category {row["id"]!r} needs a "name"')
    groups = {row.get("supercategory") for row in rows if row["id"] not in (0, "0")}
    kept = [r for r in rows if r["id"] in used or r["id"] != 0 or groups != {r["name"]}]
    return [(row["id"], row["name"]) for row in kept]


def _split(path: Path) -> str | None:
    """Of a JSON file: what a word of its name says, or else its folder."""
    words = re.findall("[a-z]+", path.stem.lower())
    named = next((SPLITS[word] for word in words if word in SPLITS), None)
    if named is None and path.stem.startswith("instances_") and words[-1] != "default":
        return path.stem.removeprefix("instances_")
    return named or split_of(path)  # type: ignore[arg-type]


def _label(image: Path, listed: tuple[int, int], instances: list[Instance]) -> list[Instance]:
    record = {"file_name": str(image), "height": listed[0], "width": listed[1]}
    require_listed_size(record, read_size(image, "image"))
    return instances
