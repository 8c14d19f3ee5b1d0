"""Ultralytics' YOLO segmentation: data.yaml, and a text file of polygons for each image.

    data.yaml                       names; train, val, test: folders or lists of images
    <...>/images/<name>.jpg         any folders
    <...>/labels/<name>.txt         a line an object: class x y x y ..., from 0 to 1

An image without a text file has no objects, as there. Roboflow's exports name folders one level up
(`../train/images`), which are found as well.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
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
    table = list(names.items() if isinstance(names, dict) else enumerate(names))
    categories, (ids,), notes = merge_names([[(int(n), str(name)) for n, name in table]])
    splits = {}
    for key, split in SPLITS.items():
        if content.get(key):
            images = list(_images(root, file, content, key))
            if not images and split != "test":
                raise DatasetError(f"{file}: {key}: {content[key]} has no images")
            splits[split] = [Sample(image, partial(_label, image, ids)) for image in images]
    return Export(categories, splits, notes, objects_only=True)


def _images(root: Path, file: Path, content: dict[str, Any], key: str) -> Iterator[Path]:
    """The images of a split: those in folders, or in text files that list them."""
    listed = content[key] if isinstance(content[key], list) else [content[key]]
    base = root / str(content.get("path") or "")
    for name in map(str, listed):
        inside = Path(*(part for part in Path(name).parts if part != ".."))
        places = [base / name, root / name, root / inside]
        found = next((place for place in places if place.exists()), None)
        if found is None and key == "test":
            continue
        if found is None:
            raise DatasetError(
                f"{file}: {key}: {name} is missing; it was looked for in {base} and {root}"
            )
        if found.is_dir():
            yield from (Path(os.path.normpath(found / path)) for path in list_files(found, IMAGES))
        else:
            lines = found.read_text(encoding="utf-8").split("\n")
            yield from (_listed(found, line.strip()) for line in lines if line.strip())


def _listed(file: Path, name: str) -> Path:
    return Path(os.path.normpath(file.parent / name))


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
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{file}, line {number}"
        try:
            first, *values = map(float, line.split() or ["0"])
        except ValueError as error:
            raise DatasetError(f"{where}: {line!r:.60} is not numbers") from error
        if not line.strip():
            continue
        if int(first) != first or int(first) not in ids:
            known = f"{min(ids)}..{max(ids)}"
            raise DatasetError(f"{where}: class {first:g} is none of data.yaml's {known}")
        polygon = [value * (width, height)[i % 2] for i, value in enumerate(values)]
        segmentation = None if len(values) == 4 else [polygon]  # four numbers are a box
        found.append(Instance(ids[int(first)], segmentation, where=where))
    return found
