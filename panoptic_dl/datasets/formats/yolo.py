"""Ultralytics' YOLO segmentation: data.yaml, and a text file of polygons for each image.

    data.yaml                       names; train, val, test: folders or lists of images
    <...>/images/<name>.jpg         any folders
    <...>/labels/<name>.txt         a line an object: class x y x y ..., from 0 to 1

An image without a text file has no objects, as there. Folders and images that data.yaml and lists
name where they once lay, one level up (Roboflow's `../train/images`) or on another machine, are
found by the end of their path.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import read_size
from panoptic_dl.datasets.formats.base import (
    IMAGES,
    SPLITS,
    Export,
    Instance,
    Sample,
    list_files,
    merge_names,
)


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is none of these."""
    return "a dataset of Ultralytics YOLO" if _find_yaml(root) else ""


def _find_yaml(root: Path) -> Path | None:
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        content = _load(file)
        if "names" in content and ("train" in content or "val" in content):
            return file
    return None


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def read(root: Path) -> Export:
    """The splits of data.yaml.

    Raises:
        DatasetError: there is no such file, a folder that it names is missing, or has no images.
    """
    file = _find_yaml(root)
    if file is None:
        raise DatasetError(f"no data.yaml with train, val and names in {root}")
    content = _load(file)
    names = content["names"]
    try:
        table = dict(enumerate(names)) if isinstance(names, list) else names
        categories, (ids,), notes = merge_names([[(int(n), str(v)) for n, v in table.items()]])
    except (AttributeError, ValueError) as error:
        raise DatasetError(f"{file}: names must be a list, or lines `number: name`") from error
    splits = {}
    for key, split in SPLITS.items():
        if content.get(key):
            images = list(_images(root, file, content, key))
            if not images and split != "test":
                raise DatasetError(f"{file}: {key}: {content[key]} has no images")
            if missing := [label for label in map(_label_file, images) if not label.is_file()]:
                what = f"{len(missing)} of {len(images)} images of {split} have no text file"
                if split == "train" and len(missing) == len(images):
                    raise DatasetError(f"{what}, such as {missing[0]}: put the labels there")
                notes.append(f"{what}, such as {missing[0]}: they count as empty")
            splits[split] = [Sample(image, partial(_label, image, ids)) for image in images]
    return Export(categories, splits, notes, objects_only=True)


def _images(root: Path, file: Path, content: dict[str, Any], key: str) -> Iterator[Path]:
    """The images of a split: those in folders, or in text files that list them."""
    listed = content[key] if isinstance(content[key], list) else [content[key]]
    base = root / str(content.get("path") or "")
    for name in map(str, listed):
        found = _find(name, base, root)
        if found is None and key == "test":
            continue
        if found is None:
            raise DatasetError(
                f"{file}: {key}: {name} is missing; it was looked for in {base} and {root}"
            )
        if found.is_dir():
            yield from (found / path for path in list_files(found, IMAGES))
        else:
            lines = filter(None, map(str.strip, _read(found).splitlines()))
            yield from (_find(line, found.parent, root) or found.parent / line for line in lines)


def _find(name: str, base: Path, root: Path) -> Path | None:
    """What is called `name` in `base`; else what the end of that path is in `root`."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    places = [base.joinpath(*parts), *(root.joinpath(*parts[i:]) for i in range(len(parts)))]
    return next((Path(os.path.normpath(place)) for place in places if place.exists()), None)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8-sig", errors="replace")


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for index in reversed(range(len(parts))):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _label(image: Path, ids: dict[int, int]) -> list[Instance]:
    file = _label_file(image)
    if not file.is_file():
        return []
    height, width = read_size(image, "image")
    found = []
    for number, line in enumerate(_read(file).splitlines(), 1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            first, *values = map(float, line.split())
        except ValueError as error:
            raise DatasetError(f"{where}: {line!r:.60} is not numbers") from error
        if first not in ids:
            known = f"{min(ids)}..{max(ids)}"
            raise DatasetError(f"{where}: class {first:g} is none of data.yaml's {known}")
        polygon = [value * (width, height)[i % 2] for i, value in enumerate(values)]
        segmentation = None if len(values) == 4 else [polygon]  # four numbers are a box
        found.append(Instance(ids[int(first)], segmentation, where=where))
    return found
