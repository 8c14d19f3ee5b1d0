"""Tiny custom datasets in the folders of either format, as unlike COCO as may be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.datasets.custom import custom_classes, custom_dataset

CATEGORIES = [  # gaps, large ids, things and stuff mixed, spaces, letters beyond ASCII, few colors
    {"id": 901, "name": "Förderband", "isthing": 0},
    {"id": 7, "name": "red box", "isthing": 1, "color": [200, 30, 30]},
    {"id": 40, "name": "床", "isthing": 0},
    {"id": 2_000_000_011, "name": "nut M5 / steel", "isthing": True},
    {"id": 12, "name": "screw", "isthing": 1, "supercategory": "small"},
    {"id": 0, "name": "wall", "isthing": False, "color": None},
]
SIZES = ((60, 80), (80, 60), (48, 96), (64, 64))  # (height, width), one image after another

JSON = {
    "coco_format": "annotations/panoptic_{}.json",
    "cityscapes_format": "gtFine/cityscapes_panoptic_{}.json",
}

Entry = dict[str, Any]


def write_own(
    root: Path,
    *,
    form: str = "coco_format",
    categories: list[Entry] = CATEGORIES,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    suffix: str = ".png",
    **counts: int,
) -> Path:
    """Write `counts` images per split: bands of stuff, boxes of things, a crowd, and void."""
    for split, count in counts.items():
        if form == "coco_format":
            images, labels = root / split, root / f"panoptic_{split}"
            file = root / "annotations" / f"panoptic_{split}.json"
        else:
            images, labels = root / "leftImg8bit" / split / "x", root / "gtFine"
            labels = root / "gtFine" / f"cityscapes_panoptic_{split}"
            file = labels.with_name(f"{labels.name}.json")
        for folder in (images, labels, file.parent):
            folder.mkdir(parents=True, exist_ok=True)
        listed, annotations = [], []
        for index in range(count):
            number = 10_000 + index if form == "coco_format" else f"x_{index:06d}_000000"
            size = sizes[index % len(sizes)]
            random = np.random.default_rng([len(split), index])
            pixels = random.integers(0, 256, (*size, 3), np.uint8)
            name = f"img {index}" if form == "coco_format" else f"{number}_leftImg8bit"
            Image.fromarray(pixels).save(images / f"{name}{suffix}")
            ids, segments = draw_segments(random, size, categories)
            label = f"label-{index}.png"  # not the name of the image
            Image.fromarray(id2rgb(ids)).save(labels / label)
            listed.append({"id": number, "file_name": f"{name}{suffix}"})
            annotations.append({"image_id": number, "file_name": label, "segments_info": segments})
        content = {"images": listed, "annotations": annotations, "categories": categories}
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return root


def draw_segments(
    random: np.random.Generator, size: tuple[int, int], categories: list[Entry]
) -> tuple[np.ndarray, list[Entry]]:
    """Ids (H, W), 0 where void, and segments; some without "iscrowd" or "area"."""
    ids = np.zeros(size, dtype=np.int64)
    stuff = [category["id"] for category in categories if not category["isthing"]]
    things = [category["id"] for category in categories if category["isthing"]]
    numbers = iter(np.unique(random.integers(1, 256**3, 40)))
    kinds: dict[int, tuple[int, int]] = {}
    height, width = size
    for band, category in enumerate(random.permutation(stuff)[:3].tolist()):
        number = int(next(numbers))
        kinds[number] = category, 0
        ids[8 + band * 16 : 24 + band * 16] = number
    for index in range(5 if things else 0):
        number, category = int(next(numbers)), int(random.choice(things))
        kinds[number] = category, int(index == 4)
        top, left = int(random.integers(0, height - 16)), int(random.integers(0, width - 16))
        bottom, right = top + int(random.integers(6, 16)), left + int(random.integers(6, 16))
        ids[top:bottom, left:right] = number
    segments: list[Entry] = []
    for number, area in zip(*np.unique(ids, return_counts=True), strict=True):
        if number:
            category, crowd = kinds[int(number)]
            segment: Entry = {"id": int(number), "category_id": category}
            if crowd or random.random() < 0.5:
                segment["iscrowd"] = crowd
            if random.random() < 0.5:
                segment["area"] = int(area)
            segments.append(segment)
    return ids, segments


def classes_of(root, form="coco_format", **places):
    splits = {"train_split": "train", "test_split": "val"}
    return custom_classes(form=form, root=root and str(root), **splits | places)


def register(root, form="coco_format", part="train", task="panoptic", split=None, **places):
    return custom_dataset(
        form=form,
        task=task,
        part=part,
        classes=classes_of(root, form),
        root=str(root),
        split=split or {"train": "train", "test": "val"}[part],
        **places,
    )


def edit(root, change, form="coco_format", split="train"):
    """Let `change` alter the content of the JSON file, which is written back."""
    file = root / JSON[form].format(split)
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content))
    return file
