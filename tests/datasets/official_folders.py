"""Tiny datasets in the official folders of ADE20K, VOC, BDD100K and Mapillary Vistas."""

import json
from pathlib import Path

import numpy as np
from panopticapi.utils import id2rgb
from PIL import Image

SIZE = 24, 32  # (H, W)


def save(file: Path, pixels: np.ndarray, palette: list[int] | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image.putpalette(palette)
    image.save(file)
    return file


def segments_of(ids, segments):
    """A set of (category, crowd, where) of all segments; all ids of the image must be listed."""
    assert set(np.unique(ids)) - {0} == set(segments)
    return {(*kind, (np.asarray(ids) == number).tobytes()) for number, kind in segments.items()}


def photo(file: Path, seed: int) -> None:
    save(file, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)))


def write_ade20k(root: Path, **counts: int) -> Path:
    """Walls, floor, void; a thing without instances; instances that lie over stuff and hide one."""
    base = root / "ADEChallengeData2016"
    for split, count in counts.items():
        for index in range(count):
            name = f"ADE_{split[:5]}_{index + 1:08d}"
            classes = np.full(SIZE, 1)  # wall
            classes[12:] = 4  # floor
            classes[:3] = 0  # another class
            classes[14:18, 2:9] = 20  # a chair
            classes[20:23, 20:30] = 16  # a table, without instances
            classes[5:7, 25:28] = 14  # door (15 is the thing), hidden below
            objects = np.zeros((*SIZE, 3))
            objects[14:18, 2:5] = 19 - 3, 1, 0  # some chair: 16 -> class 33
            objects[14:18, 5:9] = 8, 2, 0  # class 20
            objects[4:8, 24:29] = 100, 3 + index, 0  # a flag over the wall
            photo(base / "images" / split / f"{name}.jpg", index)
            save(base / "annotations" / split / f"{name}.png", classes)
            save(base / "annotations_instance" / split / f"{name}.png", objects)
    return root


def voc_palette() -> list[int]:
    """VOC's colors, as in the loop of its development kit."""
    palette = []
    for index in range(256):
        red = green = blue = 0
        rest = index
        for shift in range(7, -1, -1):
            red |= (rest & 1) << shift
            green |= (rest >> 1 & 1) << shift
            blue |= (rest >> 2 & 1) << shift
            rest >>= 3
        palette += [red, green, blue]
    return palette


def voc_labels(index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes and objects: two persons, a sofa, borders."""
    classes, objects = np.zeros(SIZE), np.zeros(SIZE)
    for number, (top, kind) in enumerate([(2, 15), (9, 15), (16, 18)], 1):
        area = slice(top, top + 5), slice(4, 20 + index)
        classes[area] = objects[area] = 255
        inside = slice(top + 1, top + 4), slice(5, 19 + index)
        classes[inside], objects[inside] = kind, number
    return classes, objects


def write_voc(root: Path, **counts: int) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    names: list[str] = []
    for split, count in counts.items():
        own = [f"2007_{len(names) + index:06d}" for index in range(count)]
        names += own
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in own))
    (lists / "trainval.txt").write_text("".join(f"{name}\n" for name in names))
    for index, name in enumerate([*names, "2008_000001"]):  # one without labels, as most of VOC
        photo(base / "JPEGImages" / f"{name}.jpg", index)
        if name in names:
            classes, objects = voc_labels(index)
            save(base / "SegmentationClass" / f"{name}.png", classes, voc_palette())
            save(base / "SegmentationObject" / f"{name}.png", objects, voc_palette())
    return root


def write_bdd100k(root: Path, **counts: int) -> Path:
    """Road, sky, cars, a crowd of persons, an ignored car, and void."""
    base = root / "bdd100k"
    for split, count in counts.items():
        for index in range(count):
            mask = np.zeros((*SIZE, 4))
            mask[10:] = 7, 0, 0, 7
            mask[:6, :20] = 30, 8, 0, 30
            mask[:6, 20:28] = 30, 2 | 8, 0, 30  # a part of the sky that is a crowd
            mask[12:16, 2:8] = 35, 4, 0, 31
            mask[12:16, 10:16] = 35, 8 | 4, 1, 2  # number 258
            mask[18:22, 2:9] = 31, 2, 0, 33
            mask[18:22, 12:20] = 35, 1, 0, 34
            name = f"{index:08x}-{split}"
            photo(base / "images" / "10k" / split / f"{name}.jpg", index)
            save(base / "labels" / "pan_seg" / "bitmasks" / split / f"{name}.png", mask)
    return root


MAPILLARY = [
    {
        "id": 1,
        "name": "Bird",
        "supercategory": "animal--bird",
        "isthing": 1,
        "color": [165, 42, 42],
    },
    {"id": 3, "name": "Curb", "supercategory": "construction", "isthing": 0, "color": [196] * 3},
    {
        "id": 28,
        "name": "Sky",
        "supercategory": "nature--sky",
        "isthing": 0,
        "color": [70, 130, 180],
    },
    {"id": 56, "name": "Car", "supercategory": "object", "isthing": 1, "color": [0, 0, 142]},
]


def write_mapillary(
    root: Path, version: str = "v1.2", *, plain: bool = False, **counts: int
) -> Path:
    """`plain`: without the version's folder, as v1.2 was released first."""
    base = root / "mapillary_vistas"
    for split, count in counts.items():
        folder = base / split / ("" if plain else version) / "panoptic"
        images, annotations = [], []
        for index in range(count):
            number = f"--j{index}9anHdGxv4ZOCQktA"
            ids = np.zeros(SIZE, np.int64)
            kinds = {66_000 + index: 56, 7: 56, 300: 28, 9: 3}
            for top, segment in enumerate(kinds):
                ids[4 * top + 1 : 4 * top + 5, : 20 + index] = segment
            photo(base / split / "images" / f"{number}.jpg", index)
            save(folder / f"{number}.png", id2rgb(ids))
            size = {"height": SIZE[0], "width": SIZE[1]}
            images.append({"id": number, "file_name": f"{number}.jpg", **size})
            segments = [
                {"id": i, "category_id": c, "area": int((ids == i).sum()), "iscrowd": int(i == 7)}
                for i, c in kinds.items()
            ]
            name = f"{number}.png"
            annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": MAPILLARY}
        file = folder / f"panoptic_{'2018' if version == 'v1.2' else '2020'}.json"
        file.write_text(json.dumps(content))
    return root
