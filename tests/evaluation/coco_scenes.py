"""Images with instances in COCO's format, made by code, and predictions that are often right.

Shapes: H W pixels, N instances.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util

from tests.evaluation.scenes import paint

CLASSES = {1: 0, 3: 1, 7: 2, 8: 3, 90: 4, 91: 5}  # the last two are never in the truth
NAMES = ["person", "car", "train", "truck", "toothbrush", "ghost"]
SIZES = [(200, 300), (40, 50), (210, 250), (123, 77), (1, 9)]
numbers = itertools.count()


def encode(mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    pixels = mask.T.reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    counts = np.diff([0, *edges, pixels.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}


def draw_mask(size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """A rectangle, a pixel or a scattering; never empty."""
    mask = np.zeros(size, dtype=np.int64)
    if min(size) > 2:
        paint(mask, 1, draw)
    mask[draw.integers(size[0]), draw.integers(size[1])] = 1
    return mask > 0


def annotate(image: dict, number: int, draw: np.random.Generator) -> dict:
    """A true instance as an encoding of either kind, or one or two polygons; a fifth are crowds."""
    size = image["height"], image["width"]
    crowd, kind = int(draw.random() < 0.2), draw.integers(3)
    mask = draw_mask(size, draw)
    if kind == 0 and min(size) > 9:
        polygons = []
        for _ in range(draw.integers(1, 3)):
            x, y = draw.random() * size[1] / 2, draw.random() * size[0] / 2
            width, height = 3 + draw.random(2) * np.array(size[::-1]) / 2
            polygons.append([x, y, x + width, y, x + width, y + height, x + 1.3, y + height])
        segmentation = polygons
        rle = mask_util.merge(mask_util.frPyObjects(polygons, *size))
    else:
        segmentation = encode(mask) if kind == 1 else uncompressed(mask)
        rle = encode(mask)
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": int(draw.choice([1, 3, 7, 8])),
        "iscrowd": crowd,
        "area": float(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": segmentation,
    }


def truth_of_scenes(num_images: int, seed: int, most: int = 9) -> dict:
    """The content of an instances file; image ids are neither dense nor sorted."""
    draw = np.random.default_rng(seed)
    ids = draw.permutation(np.arange(7, 7 + 5 * num_images, 5)).tolist()
    images = [
        {"id": image, "file_name": f"{image}.jpg", "height": size[0], "width": size[1]}
        for image, size in zip(ids, itertools.cycle(SIZES), strict=False)
    ]
    annotations = []
    for image in images:
        for _ in range(draw.integers(0, most) if draw.random() < 0.9 else 0):
            annotations.append(annotate(image, 5 + 3 * len(annotations), draw))
    draw.shuffle(annotations)
    categories = [{"id": i, "name": name} for i, name in zip(CLASSES, NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def register_coco(content: dict, folder: Path, name: str | None = None) -> str:
    """Write the instances file, and put a dataset of its images into the catalogs."""
    name = name or f"coco_scenes_{next(numbers)}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    file = folder / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(content))
    records = [{"image_id": image["id"]} for image in content["images"]]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        json_file=str(file),
        thing_classes=NAMES,
        thing_dataset_id_to_contiguous_id=CLASSES,
    )
    return name


def predict_scene(content: dict, image: dict, seed: int, extra: int = 6) -> dict:
    """Instances that are often right; twice found, moved, empty, tied, of absent classes, or none.

    Boxes are those of the masks, moved by parts of a pixel.
    """
    draw = np.random.default_rng(seed)
    size = image["height"], image["width"]
    masks, classes = [], []
    for annotation in content["annotations"]:
        if annotation["image_id"] != image["id"]:
            continue
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, *size)
        mask = mask_util.decode(segmentation)
        mask = (mask.any(axis=2) if mask.ndim == 3 else mask) > 0
        for _ in range(draw.integers(0, 4)):
            keep = mask & (draw.random(size) < draw.choice([0.5, 0.77, 0.9, 1, 1]))
            masks.append(np.roll(keep, draw.integers(0, 3), axis=1))
            right = draw.random() < 0.85
            classes.append(CLASSES[annotation["category_id"]] if right else draw.integers(6))
    for _ in range(draw.integers(0, extra)):
        empty = draw.random() < 0.15
        masks.append(np.zeros(size, dtype=bool) if empty else draw_mask(size, draw))
        classes.append(draw.integers(6))
    if draw.random() < 0.1:
        return {}
    if draw.random() < 0.1:
        masks, classes = [], []
    boxes = [mask_util.toBbox(encode(mask)) for mask in masks]
    corners = torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4))
    corners[:, 2:] += corners[:, :2]
    corners += torch.from_numpy(draw.normal(0, 0.3, corners.shape).astype(np.float32))
    scores = draw.choice([draw.random(), 0.25, 0.5, 0.5, 0.9, 0.999, 1.3], len(masks))
    return {
        "instances": Instances(
            size,
            pred_boxes=Boxes(corners),
            pred_masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size)),
            pred_classes=torch.tensor([int(c) for c in classes], dtype=torch.int64),
            scores=torch.from_numpy(scores.astype(np.float32)),
        )
    }


def predict_scenes(content: dict, seed: int, extra: int = 6) -> list[dict]:
    return [
        predict_scene(content, image, 1000 * seed + index, extra)
        for index, image in enumerate(content["images"])
    ]
