"""LabelMe: a JSON file of shapes beside each image, in one folder or in folders of splits."""

import base64
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import read_json
from panoptic_dl.core.images import read_size
from panoptic_dl.core.masks import encode_mask
from panoptic_dl.datasets.formats.base import (
    IMAGES,
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

CIRCLE = 64  # corners of the polygon that stands for one


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is none of these."""
    file = next((root / path for path in list_files(root, [".json"])), None)
    return "annotations of LabelMe" if file and has_keys(file, "shapes") else ""


def read(root: Path) -> Export:
    """All JSON files below the folder that have shapes; classes are the labels, sorted by name.

    Shapes of one label and group_id are one object.

    Raises:
        DatasetError: there is none, one is torn, or an image is missing.
    """
    find, files = ImageFinder(root), []
    for path in list_files(root, [".json"]):
        try:
            content = read_json(root / path)
        except ValueError as error:
            raise DatasetError(f"{root / path} is no annotation of LabelMe: {error}") from error
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            if not all(isinstance(shape, dict) for shape in content["shapes"]):
                raise DatasetError(f'{root / path}: its "shapes" are no list of objects')
            files.append((path, content))
    if not files:
        raise DatasetError(f'no JSON file of LabelMe, which has "shapes", below {root}')
    labels = sorted({str(s.get("label")).strip() for _, c in files for s in c["shapes"]})
    categories, (ids,), notes = merge_names([list(enumerate(labels, 1))])
    by_label = dict(zip(labels, ids.values(), strict=True))
    samples = []
    for path, content in files:
        image = find(content.get("imagePath") or path.with_suffix(".jpg"), root / path)
        label = partial(_label, image, root / path, content["shapes"], by_label)
        samples.append((split_of(path), Sample(image, label)))
    images = list_files(root, IMAGES)
    if unlabeled := len({*images} - {s.image.relative_to(root) for _, s in samples}):
        notes.append(f"{unlabeled} of {len(images)} images have no JSON file, and are left out")
    return Export(categories, by_split(samples), notes, objects_only=True)


def _label(
    image: Path, file: Path, shapes: list[dict[str, Any]], ids: dict[str, int]
) -> list[Instance]:
    size = read_size(image, "image")
    objects: dict[Any, Instance] = {}
    for number, shape in enumerate(shapes):
        where = f"{file}, shape {number} ({shape.get('label')!r})"
        category, group = ids[str(shape.get("label")).strip()], shape.get("group_id")
        segmentation = _segmentation(shape, size, where)
        key = number if group is None else (category, group)
        if key in objects:
            parts = objects[key].segmentation
            if isinstance(parts, list) and isinstance(segmentation, list):
                segmentation = [*parts, *segmentation]
            else:  # of a mask and a polygon, each is an object
                key = number
        objects[key] = Instance(category, segmentation, where=where)
    return list(objects.values())


def _segmentation(shape: dict[str, Any], size: tuple[int, int], where: str) -> Any:
    """Polygons or a run-length code; None for points and lines, which have no area."""
    points, kind = shape.get("points", ()), shape.get("shape_type") or "polygon"
    try:
        if kind == "mask":
            return _mask(shape, size)
        if kind in ("polygon", "rotation"):  # of X-AnyLabeling, a turned rectangle
            return [[float(value) for point in points for value in point]]
        if kind == "rectangle":
            (left, top), (right, bottom) = points if len(points) == 2 else points[:3:2]
            return [[left, top, right, top, right, bottom, left, bottom]]
        if kind == "circle":
            (x, y), (edge_x, edge_y) = points
            radius = math.hypot(edge_x - x, edge_y - y)
            turns = [2 * math.pi * i / CIRCLE for i in range(CIRCLE)]
            return [
                [v for a in turns for v in (x + radius * math.cos(a), y + radius * math.sin(a))]
            ]
    except (TypeError, ValueError, KeyError, OSError) as error:
        raise DatasetError(f"{where}: its points make no {kind}: {error}") from error
    return None


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """A mask is a PNG of the box between two points."""
    with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as opened:
        part = np.asarray(opened.convert("L")) > 0
    left, top = (int(value) for value in shape["points"][0])
    mask = np.zeros(size, bool)
    inside = mask[top : top + part.shape[0], left : left + part.shape[1]]
    inside[...] = part[: inside.shape[0], : inside.shape[1]]
    return encode_mask(mask)
