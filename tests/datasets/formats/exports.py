"""Small exports in the exact formats of annotation tools, drawn by code: balls and boxes.

    python -m tests.datasets.formats.exports FOLDER

writes the one of docs/tutorials/custom_dataset.md: 60 images of 480 x 640 pixels, a task of CVAT.
"""

import base64
import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from panopticapi.utils import id2rgb
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

NAMES = ["ball", "box"]
SIZE = (64, 96)  # H, W
COLORS = [(250, 50, 83), (36, 179, 83)]


@dataclass
class Drawn:
    """An image, the polygons of its objects, lowest first, and their classes in NAMES."""

    name: str
    pixels: np.ndarray  # (H, W, 3)
    polygons: list[list[float]]
    classes: list[int]

    def masks(self) -> list[np.ndarray]:
        """(H, W) bool of each object, as pycocotools draws its polygon."""
        codes = coco_mask.frPyObjects(self.polygons, *SIZE) if self.polygons else []
        return [coco_mask.decode(code).astype(bool) for code in codes]

    def semantic(self) -> np.ndarray:
        """(H, W) 0 where nothing is, else 1 + class; smaller objects are on top."""
        found = np.zeros(SIZE, np.uint8)
        for mask, kind in sorted(zip(self.masks(), self.classes, strict=True), key=_area):
            found[mask] = kind + 1
        return found

    def numbers(self) -> np.ndarray:
        """(H, W) 0 where nothing is, else 1 + number of the object."""
        found = np.zeros(SIZE, np.uint8)
        numbered = zip(self.masks(), range(1, len(self.classes) + 1), strict=True)
        for mask, number in sorted(numbered, key=_area):
            found[mask] = number
        return found


def _area(pair):
    return -int(pair[0].sum())


def draw(count: int, prefix: str = "photo", seed: int = 0) -> list[Drawn]:
    """Images of three objects each, which may overlap; the third image has none."""
    random, found = np.random.default_rng(seed), []
    height, width = SIZE
    scale = height // 60
    for number in range(count):
        horizon = int(random.integers(height // 4, height // 2))
        picture = Image.new("RGB", (width, height), (190, 175, 150))
        pencil, polygons, classes = ImageDraw.Draw(picture), [], []
        pencil.rectangle((0, horizon, width, height), (120, 90, 60))
        for index in range(0 if number == 2 else 3):
            kind, side = index % 2, (24 - 5 * index) * scale
            corner = [int(random.integers(0, n - side)) for n in (width, height)]
            if kind == 0:
                turns = np.linspace(0, 2 * np.pi, 16 * scale, endpoint=False)
                points = (np.stack([np.cos(turns), np.sin(turns)], 1) + 1) * side / 2
            else:
                points = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
            points = points + corner
            color = np.array(((220, 70, 50), (60, 110, 220))[kind]) + random.integers(-40, 30, 3)
            pencil.polygon([tuple(p) for p in points.tolist()], tuple(color.tolist()))
            polygons.append([round(float(value), 3) for value in points.ravel()])
            classes.append(kind)
        grain = random.normal(0, 6, (height, width, 3))
        pixels = (np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)
        found.append(Drawn(f"{prefix}_{number:03d}", pixels, polygons, classes))
    return found


def save(image: Drawn, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.pixels).save(file)


def coco(images: list[Drawn], folder: str = "", first_category: int = 1, **more) -> dict:
    annotations = [
        {
            "id": 0,
            "image_id": number,
            "category_id": kind + first_category,
            "segmentation": [polygon],
            "bbox": [0, 0, 1, 1],
            "area": 1.0,
            "iscrowd": 0,
        }
        for number, image in enumerate(images)
        for polygon, kind in zip(image.polygons, image.classes, strict=True)
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    return {
        "info": {"description": "drawn"},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for number, name in enumerate(NAMES, first_category)
        ],
        "images": [
            {"id": i, "file_name": f"{folder}{m.name}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for i, m in enumerate(images)
        ],
        "annotations": annotations,
    } | more


def dump(content: object, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def roboflow_coco(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """<split>/_annotations.coco.json beside the images; category 0 is the group of all others."""
    for split, images in (("train", train), ("valid", val), ("test", val[:1])):
        content = coco(images)
        for category in content["categories"]:
            category["supercategory"] = "toys"
        content["categories"].insert(0, {"id": 0, "name": "toys", "supercategory": "none"})
        dump(content, root / split / "_annotations.coco.json")
        for image in images:
            save(image, root / split / f"{image.name}.jpg")
    (root / "README.roboflow.txt").write_text("toys - v1\n")


def cvat_coco(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """COCO 1.0 of a project: annotations/instances_<Subset>.json and images/<Subset>/."""
    for split, images in (("Train", train), ("Validation", val)):
        dump(coco(images), root / "annotations" / f"instances_{split}.json")
        for image in images:
            save(image, root / "images" / split / f"{image.name}.jpg")


def cvat_task_coco(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """COCO 1.0 of a task: one file, instances_default.json, and images/."""
    dump(coco([*train, *val]), root / "annotations" / "instances_default.json")
    for image in (*train, *val):
        save(image, root / "images" / f"{image.name}.jpg")


def label_studio_coco(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """result.json, with names below images/ written with backslashes; categories count from 0."""
    dump(coco([*train, *val], "images\\", first_category=0), root / "result.json")
    for image in (*train, *val):
        save(image, root / "images" / f"{image.name}.jpg")


def ultralytics(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """data.yaml with path, train, val and a dict of names; images/<split>, labels/<split>."""
    content = {"path": ".", "train": "images/train", "val": "images/val"}
    _yolo(
        root, content | {"names": dict(enumerate(NAMES))}, {"train": train, "val": val}, "{1}/{0}"
    )


def roboflow_yolo(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """data.yaml with folders one level up and a list of names; <split>/images, <split>/labels."""
    content = {"train": "../train/images", "val": "../valid/images", "test": "../test/images"}
    parts = {"train": train, "valid": val, "test": val[:1]}
    _yolo(root, content | {"nc": len(NAMES), "names": NAMES}, parts, "{0}/{1}")


def _yolo(root: Path, content: dict, parts: dict[str, list[Drawn]], places: str) -> None:
    for split, images in parts.items():
        for image in images:
            save(image, root / places.format(split, "images") / f"{image.name}.jpg")
            file = root / places.format(split, "labels") / f"{image.name}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                " ".join(
                    [str(kind), *(f"{v / SIZE[1 - i % 2]:.8f}" for i, v in enumerate(polygon))]
                )
                for polygon, kind in zip(image.polygons, image.classes, strict=True)
            ]
            if rows:  # as the tools do, none for an image without objects
                file.write_text("\n".join(rows) + "\n")
    (root / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def labelme(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """A JSON file beside each image, all in one folder."""
    for image in (*train, *val):
        save(image, root / f"{image.name}.jpg")
        shapes = [
            {
                "label": NAMES[kind],
                "points": np.reshape(polygon, (-1, 2)).tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for polygon, kind in zip(image.polygons, image.classes, strict=True)
        ]
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imageData": None}
        sizes = {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        dump(content | {"imagePath": f"{image.name}.jpg"} | sizes, root / f"{image.name}.json")


def encoded(mask: np.ndarray) -> str:
    """A PNG as text, as LabelMe writes masks."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def plain_masks(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """images/<split>/ and masks/<split>/ of gray numbers, and classes.yaml."""
    for split, images in (("train", train), ("val", val)):
        for image in images:
            save(image, root / "images" / split / f"{image.name}.jpg")
            _gray(image.semantic(), root / "masks" / split / f"{image.name}.png")
    (root / "classes.yaml").write_text("0: background\n1: ball\n2: box\n")


def roboflow_masks(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """<split>/<name>_mask.png beside the images, and _classes.csv."""
    for split, images in (("train", train), ("valid", val)):
        for image in images:
            save(image, root / split / f"{image.name}.jpg")
            _gray(image.semantic(), root / split / f"{image.name}_mask.png")
        with open(root / split / "_classes.csv", "w", newline="") as file:
            rows = [["Pixel Value", " Class"], *enumerate(["background", *NAMES])]
            csv.writer(file).writerows(rows)


def color_masks(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """Masks of colors, a table name,r,g,b, and lists of names: train.txt, val.txt."""
    table = np.array([(0, 0, 0), *COLORS], np.uint8)
    for split, images in (("train", train), ("val", val)):
        for image in images:
            save(image, root / "JPEGImages" / f"{image.name}.jpg")
            file = root / "labels" / f"{image.name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table[image.semantic()]).save(file)
        (root / f"{split}.txt").write_text("".join(f"{image.name}\n" for image in images))
    rows = [f"{n},{r},{g},{b}" for n, (r, g, b) in zip(["background", *NAMES], table, strict=True)]
    (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows]) + "\n")


def _gray(numbers: np.ndarray, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(file)


def cvat_masks(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """Segmentation mask 1.1 of a project: PNGs of colors, labelmap.txt, a list for each subset."""
    table = np.array([(0, 0, 0), *COLORS], np.uint8)
    objects = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], np.uint8)
    for subset, images in (("Train", train), ("Validation", val)):
        for image in images:
            save(image, root / "JPEGImages" / f"{image.name}.jpg")
            for folder, colors in (
                ("SegmentationClass", table[image.semantic()]),
                ("SegmentationObject", objects[image.numbers()]),
            ):
                _gray(colors, root / folder / f"{image.name}.png")
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{subset}.txt").write_text("".join(f"{image.name}\n" for image in images))
    rows = zip(["background", *NAMES], table.tolist(), strict=True)
    lines = [f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in rows]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "".join(lines))


def datumaro_panoptic(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """coco_panoptic: annotations/panoptic_<subset>.json and a folder of PNGs beside it."""
    _panoptic(root, train, val, "annotations/panoptic_{}")


def lightly_train(root: Path, train: list[Drawn], val: list[Drawn]) -> None:
    """LightlyTrain: annotations/<split>.json and annotations/<split>/, images/<split>/."""
    _panoptic(root, train, val, "annotations/{}")


def _panoptic(root: Path, train: list[Drawn], val: list[Drawn], place: str) -> None:
    for split, images in (("train", train), ("val", val)):
        annotations = []
        for number, image in enumerate(images):
            save(image, root / "images" / split / f"{image.name}.jpg")
            ids = image.numbers().astype(int) + 1  # 1: the background
            _gray(id2rgb(ids), root / place.format(split) / f"{image.name}.png")
            kinds = [3, *(kind + 1 for kind in image.classes)]
            segments = [
                {"id": i, "category_id": kinds[i - 1], "area": int((ids == i).sum()), "iscrowd": 0}
                for i in np.unique(ids).tolist()
            ]
            name = f"{image.name}.png"
            annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
        categories = [
            {"id": i, "name": name, "isthing": int(i < 3)}
            for i, name in enumerate([*NAMES, "background"], 1)
        ]
        content = coco(images) | {"categories": categories, "annotations": annotations}
        dump(content, root / f"{place.format(split)}.json")


INSTANCES = {
    "Roboflow, COCO": ("coco_instances", roboflow_coco),
    "CVAT project, COCO": ("coco_instances", cvat_coco),
    "CVAT task, COCO": ("coco_instances", cvat_task_coco),
    "Label Studio, COCO": ("coco_instances", label_studio_coco),
    "Ultralytics": ("yolo", ultralytics),
    "Roboflow, YOLO": ("yolo", roboflow_yolo),
    "LabelMe": ("labelme", labelme),
    "CVAT, masks": ("cvat_masks", cvat_masks),
}
MASKS = {
    "images and masks": ("masks", plain_masks),
    "Roboflow, masks": ("masks", roboflow_masks),
    "masks of colors": ("masks", color_masks),
}
PANOPTIC = {
    "Datumaro, panoptic": ("coco_format", datumaro_panoptic),
    "LightlyTrain": ("coco_format", lightly_train),
}


if __name__ == "__main__":
    SIZE = (480, 640)
    images = draw(60)
    cvat_task_coco(Path(sys.argv[1]), images[:48], images[48:])
