"""A toy COCO: drawn scenes in the official layout with the official categories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_dl.data.toy.indoors import compose_living_room, compose_table
from panoptic_dl.data.toy.masks import box_of, describe_instance
from panoptic_dl.data.toy.outdoors import compose_beach, compose_corner, compose_meadow
from panoptic_dl.data.toy.places import VOID
from panoptic_dl.data.toy.render import render_scene
from panoptic_dl.data.toy.scene import draw_order, sample_random
from panoptic_dl.data.toy.storage import store_once
from panoptic_dl.data.toy.workers import make_samples

# Counted up whenever the pictures or labels of the same parameters change.
VERSION = 2

PLACES = (compose_beach, compose_meadow, compose_corner, compose_table, compose_living_room)

TEXTURES = {
    "grass-merged": (0.12, 0.08),
    "tree-merged": (0.12, 0.08),
    "sand": (0.07, 0.05),
    "road": (0.06, 0.05),
    "sea": (0.03, 0.04),
    "sky-other-merged": (0.0, 0.0),
    "floor-wood": (0.03, 0.05),
    "table-merged": (0.03, 0.05),
}
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
        ToyStorageError: (a ValueError) root cannot be written.
    """
    height, width = (int(side) for side in size)
    if min(height, width) < 96:
        raise ValueError(f"size must be (H, W) of at least 96 pixels each, got {tuple(size)}")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be at least 1, got {num_train}, {num_val}")
    parameters = {
        "version": VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "size": [height, width],
        "seed": seed,
    }

    def make(folder: Path) -> None:
        base = folder / "coco"
        (base / "annotations").mkdir(parents=True)
        jobs: list[dict[str, Any]] = []
        for split, count in (("train2017", num_train), ("val2017", num_val)):
            (base / split).mkdir()
            (base / f"panoptic_{split}").mkdir()
            for index in range(count):
                jobs.append(
                    {
                        "base": str(base),
                        "split": split,
                        "index": index,
                        "size": [height, width],
                        "seed": seed,
                    }
                )
        samples = make_samples(
            "panoptic_dl.data.toy.coco:write_sample",
            jobs,
            title="toy COCO",
            num_workers=num_workers,
        )
        for split in ("train2017", "val2017"):
            mine = [s for s, job in zip(samples, jobs, strict=True) if job["split"] == split]
            write_annotations(base / "annotations", split, mine)

    return str(store_once(root, "toy_coco", parameters, make))


def choose_size(index: int, size: Sequence[int]) -> tuple[int, int]:
    """(H, W) of a sample: mostly `size`, some portraits, some odd."""
    height, width = size
    if index % 4 == 2:
        return width, height
    if index % 6 == 5:
        return height - 13, width - 7
    return height, width


def write_sample(
    *, base: str, split: str, index: int, size: Sequence[int], seed: int
) -> dict[str, Any]:
    """Draws one scene, writes image and panoptic PNG; returns what the JSON files say of it.

    Returns:
        {"id", "height", "width", "segments": [...], "instances": [...]}, with the names of
        categories in place of their numbers.
    """
    shape = choose_size(index, size)
    scale = 3 if min(shape) <= 192 else 2
    chance = sample_random(seed, split, index)
    place = chance.choice(PLACES)(chance, shape, scale)
    parts = place.finish()
    image = render_scene(
        parts,
        chance,
        size=shape,
        scale=scale,
        textures=TEXTURES,
        haze=place.light.haze,
        tint=place.light.tint,
        untinted="sky-other-merged",
    )
    image_id = FIRST_ID[split] + 7 * index
    stem = f"{image_id:012d}"
    image.save(Path(base, split, f"{stem}.jpg"), quality=92)

    order = draw_order(parts, shape)
    stuff: dict[str, list[int]] = {}
    for number, part in enumerate(parts, start=1):
        if part.label != VOID and not (part.is_thing or part.is_crowd):
            stuff.setdefault(part.label, []).append(number)
    groups = [(name, numbers, False) for name, numbers in stuff.items()]
    groups += [
        (part.label, [number], part.is_crowd)
        for number, part in enumerate(parts, start=1)
        if part.is_thing or part.is_crowd
    ]
    identifiers = np.zeros(shape, dtype=np.int64)
    segments, instances = [], []
    # Distinct random colours, as the official ids are.
    colours = chance.sample(range(1, 256**3), len(groups))
    for colour, (name, numbers, is_crowd) in zip(colours, groups, strict=True):
        mask = np.isin(order, numbers)
        if not mask.any():
            continue
        identifiers[mask] = colour
        segments.append(
            {
                "id": colour,
                "name": name,
                "iscrowd": int(is_crowd),
                "bbox": box_of(mask),
                "area": int(mask.sum()),
            }
        )
        if name not in stuff:
            instances.append({"name": name, **describe_instance(mask, is_crowd)})
    rgb = np.stack([identifiers % 256, identifiers // 256 % 256, identifiers // 256**2], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(Path(base, f"panoptic_{split}", f"{stem}.png"))
    return {
        "id": image_id,
        "height": shape[0],
        "width": shape[1],
        "segments": segments,
        "instances": instances,
    }


def write_annotations(folder: Path, split: str, samples: list[dict[str, Any]]) -> None:
    """The panoptic and the instances JSON of one split."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    numbers = {category["name"]: category["id"] for category in COCO_CATEGORIES}
    things = {category["name"] for category in COCO_CATEGORIES if category["isthing"]}
    categories = [
        {
            "id": category["id"],
            "name": category["name"],
            "isthing": category["isthing"],
            "supercategory": "thing" if category["isthing"] else "stuff",
        }
        for category in COCO_CATEGORIES
    ]
    about = {
        "info": {"description": "toy COCO of panoptic-dl: drawn scenes", "version": str(VERSION)},
        "licenses": [{"id": 1, "name": "Apache License 2.0", "url": ""}],
        "images": [
            {
                "id": sample["id"],
                "file_name": f"{sample['id']:012d}.jpg",
                "height": sample["height"],
                "width": sample["width"],
                "license": 1,
                "date_captured": "2017-01-01 00:00:00",
            }
            for sample in samples
        ],
    }
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for sample in samples:
        segments = []
        for segment in sample["segments"]:
            name = segment["name"]
            rest = {key: value for key, value in segment.items() if key != "name"}
            segments.append({**rest, "category_id": numbers[name]})
        panoptic.append(
            {
                "image_id": sample["id"],
                "file_name": f"{sample['id']:012d}.png",
                "segments_info": segments,
            }
        )
        for instance in sample["instances"]:
            name = instance["name"]
            assert name in things, f"{name} is no thing of COCO"
            rest = {key: value for key, value in instance.items() if key != "name"}
            instances.append(
                {
                    "id": len(instances) + 1,
                    "image_id": sample["id"],
                    "category_id": numbers[name],
                    **rest,
                }
            )
    thing_categories = [
        {key: value for key, value in category.items() if key != "isthing"}
        for category in categories
        if category["isthing"]
    ]
    for kind, found, listed in (
        ("panoptic", panoptic, categories),
        ("instances", instances, thing_categories),
    ):
        content = {**about, "annotations": found, "categories": listed}
        (folder / f"{kind}_{split}.json").write_text(json.dumps(content))
