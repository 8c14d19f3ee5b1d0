"""Tiny datasets in the official layouts of Cityscapes and COCO, written anew for each test."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.data.mapper import PanopticTrainMapper
from scripts.prepare_cityscapes import prepare_cityscapes

HEIGHT, WIDTH = 48, 96


def rectangle(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def write_cityscapes(root: Path, *, prepare: bool = True, **counts: int) -> Path:
    """Write `counts` images per split, as downloaded; `prepare` adds what the script makes."""
    for split, count in counts.items():
        for index in range(count):
            city = ("aachen", "bonn")[index % 2]
            write_street(root / "cityscapes", split, city, f"{city}_{index:06d}_000019", index)
    if prepare:
        prepare_cityscapes(root, say=lambda line: None)
    return root


def write_street(base: Path, split: str, city: str, image_id: str, index: int) -> None:
    """One image with stuff, two cars, a crowd, a person, void and an ignored label."""
    images, labels = base / "leftImg8bit" / split / city, base / "gtFine" / split / city
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / f"{image_id}_leftImg8bit.png")
    shift = 3 * index
    objects = [
        ("road", rectangle(0, 24, WIDTH, HEIGHT)),
        ("sky", rectangle(0, 0, WIDTH - 12, 10)),
        ("building", rectangle(0, 10, 40, 24)),
        ("ego vehicle", rectangle(0, HEIGHT - 6, WIDTH, HEIGHT)),
        ("car", rectangle(8 + shift, 20, 28 + shift, 34)),
        ("car", rectangle(24 + shift, 24, 46 + shift, 38)),
        ("cargroup", rectangle(60, 16, 80, 28)),
        ("person", rectangle(50, 14, 58, 34)),
    ]
    content = {
        "imgHeight": HEIGHT,
        "imgWidth": WIDTH,
        "objects": [{"label": label, "polygon": polygon} for label, polygon in objects],
    }
    file = labels / f"{image_id}_gtFine_polygons.json"
    file.write_text(json.dumps(content))
    annotation = Annotation()
    annotation.fromJsonFile(str(file))
    with contextlib.redirect_stdout(io.StringIO()):
        createLabelImage(annotation, "ids").save(labels / f"{image_id}_gtFine_labelIds.png")
        instances = createInstanceImage(annotation, "ids").convert("I;16")  # as the official files
        instances.save(labels / f"{image_id}_gtFine_instanceIds.png")


def write_coco(root: Path, *, with_things: bool = True, **counts: int) -> Path:
    """Write `counts` images per split: upright and lying; two persons, a crowd, stuff, void."""
    base = root / "coco"
    (base / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        images, labels = base / f"{split}2017", base / f"panoptic_{split}2017"
        images.mkdir()
        labels.mkdir()
        panoptic, boxes, entries = [], [], []
        for index in range(count):
            image_id = 100 + index
            height, width = (60, 80) if index % 3 else (80, 60)
            pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(images / f"{image_id:012d}.jpg")
            segments = [(3_000_000 + index, 200, 0, (0, 0, width, 30))]  # rug-merged: stuff
            if with_things:
                segments += [
                    (70_000 + index, 1, 0, (5, 10, 20, 40)),  # a person over it
                    (71_000 + index, 1, 0, (25, 10, 30, 50)),
                    (72_000 + index, 90, 1, (40, 20, 55, 50)),  # a crowd of toothbrushes
                ]
            ids = np.zeros((height, width), dtype=np.int64)
            for segment_id, _, _, (left, top, right, bottom) in segments:
                ids[top:bottom, left:right] = segment_id
            Image.fromarray(id2rgb(ids)).save(labels / f"{image_id:012d}.png")
            infos = []
            for segment_id, category, crowd, _ in segments:
                mask = np.asfortranarray(ids == segment_id).astype(np.uint8)
                rle = mask_util.encode(mask)
                info = {
                    "id": segment_id,
                    "category_id": category,
                    "iscrowd": crowd,
                    "area": int(mask.sum()),
                    "bbox": mask_util.toBbox(rle).tolist(),
                }
                infos.append(info)
                if category < 92:
                    counts_text = {"size": rle["size"], "counts": rle["counts"].decode()}
                    boxes.append(
                        info | {"image_id": image_id, "id": segment_id, "segmentation": counts_text}
                    )
            entries.append(
                {
                    "id": image_id,
                    "file_name": f"{image_id:012d}.jpg",
                    "height": height,
                    "width": width,
                }
            )
            panoptic.append(
                {
                    "image_id": image_id,
                    "file_name": f"{image_id:012d}.png",
                    "segments_info": infos,
                }
            )
        for kind, annotations in (("panoptic", panoptic), ("instances", boxes)):
            things_only = kind == "instances"
            content = {
                "info": {},
                "images": entries,
                "annotations": annotations,
                "categories": [
                    {key: category[key] for key in ("id", "name", "isthing")}
                    for category in COCO_CATEGORIES
                    if category["isthing"] or not things_only
                ],
            }
            file = base / "annotations" / f"{kind}_{split}2017.json"
            file.write_text(json.dumps(content))
    return root


def panoptic_mapper(augment=(), num_classes=133):
    return PanopticTrainMapper(
        augmentations=list(augment),
        num_classes=num_classes,
        thing_ids=range(80),
        gaussian_sigma=3,
        small_instance_area=200,
        small_instance_weight=3,
    )


def edit_json(file, change):
    """Let `change` alter the content of a JSON file, which is written back."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
