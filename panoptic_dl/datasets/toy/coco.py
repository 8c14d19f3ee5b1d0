"""A toy COCO: drawn scenes in the official layout with the official categories.

Masks in the forms of COCO's annotation files: boxes, polygons, run lengths.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from panoptic_dl.core.images import ids_to_colors
from panoptic_dl.core.masks import encode_mask, run_lengths
from panoptic_dl.datasets.storage import map_samples, store_once
from panoptic_dl.datasets.toy.scene import Scene, check_parameters, draw_order, sample_random


def _describe_instance(mask: np.ndarray, is_crowd: bool) -> dict[str, Any]:
    """The fields of an instances JSON that a mask gives: run lengths for a crowd, else polygons."""
    segmentation: Any = _trace_polygons(mask)
    encoded: Any = encode_mask(mask)
    if is_crowd:
        segmentation = {"counts": run_lengths(encoded["counts"]), "size": [*mask.shape]}
    else:
        encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, *mask.shape))
    area, box = float(coco_mask.area(encoded)), coco_mask.toBbox(encoded).tolist()
    return {"segmentation": segmentation, "area": area, "bbox": box, "iscrowd": int(is_crowd)}


def _trace_polygons(mask: np.ndarray) -> list[list[float]]:
    """Outer polygons [x, y, x, y, ...] of a bool (H, W) mask; the first pixel spans [0, 1)."""
    # At twice the size the contour, which runs through pixel centers, keeps within a quarter of a
    # pixel of the mask's edge.
    double = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    polygons: list[list[float]] = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        vertices = cv2.approxPolyDP(contour, 0.5, True).reshape(-1, 2)
        # A speck beside the thing's main part is no polygon, but a lone small part is.
        if len(vertices) >= 3 and (cv2.contourArea(contour) >= 16 or not polygons):
            polygons.append([round((float(value) + 0.5) / 2, 2) for value in vertices.ravel()])
    return polygons


# Counted up whenever the pictures or labels of the same parameters change.
VERSION = 3

PLACES = ("beach", "meadow", "corner", "table", "living room")
NO_CATEGORY = ""  # the label of what belongs to no category
# Image ids of the two splits never meet.
FIRST_ID = {"train2017": 100_000, "val2017": 700_000}


def toy_coco(
    *,
    root: str,
    num_train: int = 200,
    num_val: int = 30,
    size: tuple[int, int] = (240, 320),
    seed: int = 0,
    num_workers: int | None = None,
) -> str:
    """Makes a toy COCO on first use and returns the folder that holds its `coco/`.

    The folder takes the place of DETECTRON2_DATASETS. Below it lie
    coco/{train2017,val2017}/*.jpg, coco/panoptic_{train2017,val2017}/*.png and
    coco/annotations/{panoptic,instances}_{train2017,val2017}.json. A sample depends on
    (seed, split, index, size) only.

    Args:
        root: where generated data lies, e.g. "./datasets"; gets a folder named after the
            parameters.
        num_train, num_val: images of each split.
        size: (H, W) in pixels of most images, both at least 96; some are portraits, some of an
            odd size.
        seed: another seed, other scenes.
        num_workers: processes; default one per core.
    Returns:
        Absolute path.
    Raises:
        ValueError: a parameter is out of range.
        DatasetError: (a ValueError) root cannot be written.
    """
    parameters = check_parameters(VERSION, num_train, num_val, size, 96, seed)

    def make(folder: Path) -> None:
        base = folder / "coco"
        (base / "annotations").mkdir(parents=True)
        jobs: list[tuple[Any, ...]] = []
        for split, count in (("train2017", num_train), ("val2017", num_val)):
            (base / split).mkdir()
            (base / f"panoptic_{split}").mkdir()
            for index in range(count):
                jobs.append((str(base), split, index, parameters["size"], seed))
        samples = map_samples(_write_sample, jobs, "toy COCO", num_workers)
        for split in ("train2017", "val2017"):
            mine = [s for s, job in zip(samples, jobs, strict=True) if job[1] == split]
            _write_annotations(base / "annotations", split, mine)

    return str(store_once(root, f"toy_coco_v{VERSION}", parameters, make))


def _choose_size(index: int, size: Sequence[int]) -> tuple[int, int]:
    """(H, W) of a sample: mostly `size`, some portraits, some odd."""
    height, width = size
    if index % 4 == 2:
        return width, height
    if index % 6 == 5:
        return height - 13, width - 7
    return height, width


def _write_sample(
    base: str, split: str, index: int, size: Sequence[int], seed: int
) -> dict[str, Any]:
    """Draws one scene, writes image and panoptic PNG; returns its entries in the JSON files."""
    shape = _choose_size(index, size)
    chance = sample_random(seed, split, index)
    things = {category["name"] for category in _categories() if category["isthing"]}
    place = chance.choice(PLACES)
    scene = Scene(place, chance, shape, things=things, void=NO_CATEGORY)
    parts = scene.parts
    image_id = FIRST_ID[split] + 7 * index
    stem = f"{image_id:012d}"
    scene.photograph().save(Path(base, split, f"{stem}.jpg"), quality=92)

    order = draw_order(parts, shape)
    stuff: dict[str, list[int]] = {}
    single = []
    for number, part in enumerate(parts, start=1):
        if part.is_thing or part.is_crowd:
            single.append((part.label, [number], part.is_crowd))
        elif part.label != NO_CATEGORY:
            stuff.setdefault(part.label, []).append(number)
    groups = [(name, numbers, False) for name, numbers in stuff.items()] + single
    category_ids = {category["name"]: category["id"] for category in _categories()}
    identifiers = np.zeros(shape, dtype=np.int64)
    segments, instances = [], []
    # Distinct random colors, as the official ids are.
    colors = chance.sample(range(1, 256**3), len(groups))
    for color, (name, numbers, is_crowd) in zip(colors, groups, strict=True):
        mask = np.isin(order, numbers)
        if not mask.any():
            continue
        identifiers[mask] = color
        category = {"category_id": category_ids[name]}
        box = [int(value) for value in coco_mask.toBbox(encode_mask(mask))]
        size_and_place = {"bbox": box, "area": int(mask.sum())}
        segments.append({"id": color, "iscrowd": int(is_crowd)} | size_and_place | category)
        if name not in stuff:
            instance = _describe_instance(mask, is_crowd)
            instances.append({"image_id": image_id} | category | instance)
    panoptic = Image.fromarray(ids_to_colors(identifiers))
    panoptic.save(Path(base, f"panoptic_{split}", f"{stem}.png"))
    image = {"id": image_id, "file_name": f"{stem}.jpg", "height": shape[0], "width": shape[1]}
    about = {"license": 1, "date_captured": "2017-01-01 00:00:00"}
    labels = {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments}
    return {"image": image | about, "panoptic": labels, "instances": instances}


@lru_cache
def _categories() -> list[dict[str, Any]]:
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES  # takes seconds

    kinds = ("stuff", "thing")
    return [
        {key: category[key] for key in ("id", "name", "isthing")}
        | {"supercategory": kinds[category["isthing"]]}
        for category in COCO_CATEGORIES
    ]


def _write_annotations(folder: Path, split: str, samples: list[dict[str, Any]]) -> None:
    """The panoptic and the instances JSON of one split."""
    instances = [instance for sample in samples for instance in sample["instances"]]
    things = [{k: c[k] for k in c if k != "isthing"} for c in _categories() if c["isthing"]]
    about = {
        "info": {"description": "toy COCO of panoptic-dl: drawn scenes", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": ""}],
        "images": [sample["image"] for sample in samples],
    }
    for kind, found, listed in (
        ("panoptic", [sample["panoptic"] for sample in samples], _categories()),
        ("instances", [{"id": i} | each for i, each in enumerate(instances, start=1)], things),
    ):
        content = {**about, "annotations": found, "categories": listed}
        (folder / f"{kind}_{split}.json").write_text(json.dumps(content))
