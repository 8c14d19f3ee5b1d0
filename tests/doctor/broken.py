"""A library of broken datasets: a healthy tiny one, and one function for each fault.

A function breaks the dataset below a root, and returns what the doctor's row must name. `FAULTS`
says which rows must be other than in the healthy dataset, and how; no further row may be.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.data.small import write_cityscapes, write_coco

CITY, PIXEL = "gtFine/train/bonn/bonn_000001_000019_gtFine", (0, 0)
STREET = "leftImg8bit/train/bonn/bonn_000001_000019_leftImg8bit.png"
FIRST = "000000000101"  # an image of COCO's train split, 60 x 80


def write_healthy(root: Path, kind: str) -> Path:
    """Write both splits; of the two no image is the same."""
    if kind == "coco":
        write_coco(root, train=4, val=2)
    else:
        write_cityscapes(root, train=3, val=2)
    pattern = "val2017/*.jpg" if kind == "coco" else "leftImg8bit/val/*/*.png"
    for seed, file in enumerate(sorted((root / kind).glob(pattern)), start=100):
        size = Image.open(file).size
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return root


@dataclass(frozen=True)
class Fault:
    """`rows`: the state of each row that is not as in the healthy dataset; the first names it."""

    kind: str
    break_it: Callable[[Path], str]
    rows: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.break_it.__name__}"


FAULTS: list[Fault] = []


def fault(kind: str, row: str, state: str = "FAIL", **others: str) -> Any:
    """Add a function to the library."""

    def add(function: Callable[[Path], str]) -> Callable[[Path], str]:
        rows = {row: state} | {key.replace("_", " "): value for key, value in others.items()}
        FAULTS.append(Fault(kind, function, rows))
        return function

    return add


def image_of(root: Path) -> Path:
    return root / "coco" / "train2017" / f"{FIRST}.jpg"


def label_of(root: Path) -> Path:
    return root / "coco" / "panoptic_train2017" / f"{FIRST}.png"


def halve(file: Path) -> str:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return str(file)


def edit_json(file: Path, edit: Callable[[Any], Any]) -> str:
    content = json.loads(file.read_bytes())
    edit(content)
    file.write_text(json.dumps(content))
    return str(file)


def coco_json(root: Path, edit: Callable[[Any], Any], kind: str = "panoptic_train2017") -> str:
    return edit_json(root / "coco" / "annotations" / f"{kind}.json", edit)


def segment_of(content: Any, index: int = 1) -> Any:
    """A segment of the second image: 0 stuff, 1 and 2 persons, 3 a crowd."""
    return content["annotations"][1]["segments_info"][index]


# COCO: files and folders.


@fault("coco", "train data: layout")
def image_missing(root):
    image_of(root).unlink()
    return str(image_of(root))


@fault("coco", "train data: layout")
def label_missing(root):
    label_of(root).unlink()
    return str(label_of(root))


@fault("coco", "train data: layout")
def folder_missing(root):
    shutil.rmtree(root / "coco" / "train2017")
    return "folder missing"


@fault("coco", "train data: layout")
def folder_empty(root):
    for file in (root / "coco" / "train2017").iterdir():
        file.unlink()
    return str(root / "coco" / "train2017")


@fault("coco", "train data: layout")
def json_torn(root):
    return halve(root / "coco" / "annotations" / "panoptic_train2017.json")


@fault("coco", "val data: layout")
def json_missing(root):
    file = root / "coco" / "annotations" / "panoptic_val2017.json"
    file.unlink()
    return str(file)


@fault("coco", "train data: layout", "warn")
def image_that_is_not_listed(root):
    shutil.copy(root / "coco" / "val2017" / "000000000100.jpg", image_of(root).with_stem("extra"))
    return "extra.jpg"


# COCO: images.


@fault("coco", "train data: images")
def image_truncated(root):
    return halve(image_of(root))


@fault("coco", "train data: images")
def image_of_no_bytes(root):
    image_of(root).write_bytes(b"")
    return str(image_of(root))


@fault("coco", "train data: images")
def image_that_is_text(root):
    image_of(root).write_text("404: not found")
    return str(image_of(root))


@fault("coco", "train data: images")
def image_that_is_a_folder(root):
    image_of(root).unlink()
    image_of(root).mkdir()
    return str(image_of(root))


@fault("coco", "train data: images")
def image_that_is_a_dead_link(root):
    image_of(root).unlink()
    image_of(root).symlink_to("nowhere.jpg")
    return str(image_of(root))


def save_as(file: Path, mode: str, file_format: str) -> str:
    Image.open(file).convert(mode).save(file, format=file_format)
    return str(file)


@fault("coco", "train data: image modes")
def image_of_16_bits(root):
    file = image_of(root)
    deep = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(file, format="PNG")
    return str(file)


@fault("coco", "train data: image modes", "warn")
def image_in_cmyk(root):
    return save_as(image_of(root), "CMYK", "JPEG")


@fault("coco", "train data: image modes", "warn")
def image_with_transparency(root):
    return save_as(image_of(root), "RGBA", "PNG")


@fault("coco", "train data: image modes", "warn")
def image_with_a_palette(root):
    return save_as(image_of(root), "P", "PNG")


def turn(file: Path, orientation: int) -> str:
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.open(file)
    image.save(file, format="JPEG", exif=exif)
    return str(file)


@fault("coco", "train data: orientation", "warn")
def image_upside_down_by_exif(root):
    return turn(image_of(root), 3)


@fault("coco", "train data: orientation")
def image_lying_by_exif(root):
    return turn(image_of(root), 6)


@fault("coco", "train data: sizes")
def image_of_another_size(root):
    Image.open(image_of(root)).resize((40, 30)).save(image_of(root))
    return str(image_of(root))


@fault("coco", "both splits: overlap", "warn")
def image_in_both_splits(root):
    shutil.copy(root / "coco" / "val2017" / "000000000101.jpg", image_of(root))
    return str(image_of(root))


@fault("coco", "both splits: overlap", "warn")
def image_twice_in_a_split(root):
    shutil.copy(image_of(root), image_of(root).with_stem("000000000102"))
    return str(image_of(root))


# COCO: labels.


@fault("coco", "train data: labels")
def label_truncated(root):
    return halve(label_of(root))


@fault("coco", "train data: labels")
def label_with_a_palette(root):
    return save_as(label_of(root), "P", "PNG")


@fault("coco", "train data: labels")
def label_in_grey(root):
    return save_as(label_of(root), "L", "PNG")


@fault("coco", "train data: labels")
def label_compressed_with_loss(root):
    return save_as(label_of(root), "RGB", "JPEG")


@fault("coco", "train data: labels", "warn")
def label_with_transparency(root):
    return save_as(label_of(root), "RGBA", "PNG")


@fault("coco", "train data: sizes")
def label_of_another_size(root):
    Image.open(label_of(root)).resize((40, 30), Image.Resampling.NEAREST).save(label_of(root))
    return str(label_of(root))


@fault("coco", "train data: label ids")
def label_with_a_strange_id(root):
    image = Image.open(label_of(root))
    image.putpixel(PIXEL, (7, 7, 7))
    image.save(label_of(root))
    return str(label_of(root))


@fault("coco", "train data: label ids")
def segment_that_json_lacks(root):
    coco_json(root, lambda content: content["annotations"][1]["segments_info"].pop())
    return str(label_of(root))


@fault("coco", "train data: label ids")
def segment_without_pixels(root):
    ghost = {"id": 99, "category_id": 1, "iscrowd": 0, "area": 5, "bbox": [0, 0, 1, 5]}
    coco_json(root, lambda content: content["annotations"][1]["segments_info"].append(ghost))
    return str(label_of(root))


# COCO: JSON files.


@fault("coco", "train data: sizes")
def size_wrong_in_json(root):
    coco_json(root, lambda content: content["images"][1].update(height=61))
    return str(image_of(root))


@fault("coco", "train data: areas")
def area_wrong(root):
    coco_json(root, lambda content: segment_of(content).update(area=9999))
    return f"{label_of(root)}: segment 70001 has area 9999"


@fault("coco", "train data: boxes", "warn")
def box_wrong(root):
    coco_json(root, lambda content: segment_of(content).update(bbox=[0, 0, 1, 1]))
    return f"{label_of(root)}: segment 70001"


@fault("coco", "train data: boxes", "warn")
def box_that_is_none(root):
    coco_json(root, lambda content: segment_of(content).update(bbox="large"))
    return f"{label_of(root)}: segment 70001"


@fault("coco", "train data: annotations")
def area_missing(root):
    return coco_json(root, lambda content: segment_of(content).pop("area"))


@fault("coco", "train data: annotations")
def segment_id_twice(root):
    def edit(content):
        segments = content["annotations"][1]["segments_info"]
        segments.append(dict(segments[1]))

    return coco_json(root, edit)


@fault("coco", "train data: annotations")
def image_id_twice(root):
    return coco_json(root, lambda content: content["images"].append(content["images"][1]))


@fault("coco", "train data: annotations")
def annotation_twice(root):
    def edit(content):
        content["annotations"].append(content["annotations"][1])

    return coco_json(root, edit)


@fault("coco", "train data: annotations", "warn", **{"train data: layout": "warn"})
def image_without_annotation(root):
    return coco_json(root, lambda content: content["annotations"].pop())


@fault("coco", "train data: layout")
def annotation_without_image(root):
    return coco_json(root, lambda content: content["images"].pop(1))


@fault("coco", "train data: layout")
def category_unknown(root):
    return coco_json(root, lambda content: segment_of(content).update(category_id=4711))


@fault("coco", "train data: categories")
def category_renamed(root):
    return coco_json(root, lambda content: content["categories"][0].update(name="someone"))


@fault("coco", "train data: categories")
def thing_that_is_stuff(root):
    return coco_json(root, lambda content: content["categories"][1].update(isthing=0))


@fault("coco", "train data: categories")
def category_not_listed(root):
    return coco_json(root, lambda content: content["categories"].pop(1))


@fault("coco", "train data: categories")
def category_of_another_dataset(root):
    stranger = {"id": 999, "name": "unicorn", "isthing": 1}
    return coco_json(root, lambda content: content["categories"].append(stranger))


@fault("coco", "train data: crowds")
def crowd_missing(root):
    return coco_json(root, lambda content: segment_of(content).pop("iscrowd"))


@fault("coco", "train data: crowds")
def crowd_that_is_no_flag(root):
    return coco_json(root, lambda content: segment_of(content).update(iscrowd=2))


@fault("coco", "train data: crowds", "warn")
def crowd_of_stuff(root):
    return coco_json(root, lambda content: segment_of(content, 0).update(iscrowd=1))


@fault("coco", "val data: instances file")
def instances_torn(root):
    return halve(root / "coco" / "annotations" / "instances_val2017.json")


@fault("coco", "val data: instances file")
def instances_of_fewer_images(root):
    def edit(content):
        gone = content["images"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]

    return coco_json(root, edit, "instances_val2017")


@fault("coco", "val data: instances file")
def instances_of_another_category(root):
    return coco_json(
        root,
        lambda content: content["annotations"][0].update(category_id=4711),
        "instances_val2017",
    )


# Cityscapes.


def street(root: Path, suffix: str) -> Path:
    return root / "cityscapes" / f"{CITY}{suffix}.png"


def panoptic_street(root: Path) -> Path:
    name = "bonn_000001_000019_gtFine_panoptic.png"
    return root / "cityscapes" / "gtFine" / "cityscapes_panoptic_train" / name


def cityscapes_json(root: Path, edit: Callable[[Any], Any]) -> str:
    return edit_json(root / "cityscapes" / "gtFine" / "cityscapes_panoptic_train.json", edit)


def paint(file: Path, value: int) -> str:
    """Give a corner of a label another value."""
    image = Image.open(file)
    label = np.array(image)
    label[:4, :4] = value
    Image.fromarray(label).save(file)
    return str(file)


@fault("cityscapes", "train data: layout")
def train_ids_missing(root):
    street(root, "_labelTrainIds").unlink()
    return str(street(root, "_labelTrainIds"))


@fault("cityscapes", "train data: layout")
def panoptic_not_prepared(root):
    shutil.rmtree(panoptic_street(root).parent)
    return str(panoptic_street(root).parent)


@fault("cityscapes", "train data: layout")
def json_of_train_ids(root):
    def edit(content):
        for number, category in enumerate(content["categories"]):
            category["id"] = number

    return cityscapes_json(root, edit)


@fault("cityscapes", "train data: layout")
def json_of_fewer_images(root):
    return cityscapes_json(root, lambda content: content["annotations"].pop())


@fault("cityscapes", "train data: layout")
def file_of_somebody_else(root):
    stranger = root / "cityscapes" / "leftImg8bit" / "train" / "bonn" / "notes.txt"
    stranger.write_text("mine")
    return str(stranger)


@fault("cityscapes", "train data: images")
def street_truncated(root):
    return halve(root / "cityscapes" / STREET)


@fault("cityscapes", "train data: sizes")
def street_of_another_size(root):
    file = root / "cityscapes" / STREET
    Image.open(file).resize((48, 24)).save(file)
    return str(file)


@fault("cityscapes", "train data: semantic labels")
def train_ids_truncated(root):
    return halve(street(root, "_labelTrainIds"))


@fault("cityscapes", "train data: semantic labels")
def train_id_out_of_range(root):
    return paint(street(root, "_labelTrainIds"), 19)


@fault("cityscapes", "train data: semantic labels")
def train_ids_in_colour(root):
    return save_as(street(root, "_labelTrainIds"), "RGB", "PNG")


@fault("cityscapes", "train data: semantic labels")
def train_ids_with_a_palette(root):
    return save_as(street(root, "_labelTrainIds"), "P", "PNG")


@fault("cityscapes", "train data: semantic labels")
def train_ids_that_are_label_ids(root):
    shutil.copy(street(root, "_labelIds"), street(root, "_labelTrainIds"))
    return str(street(root, "_labelTrainIds"))


@fault("cityscapes", "train data: agreement")
def train_ids_repainted(root):
    return paint(street(root, "_labelTrainIds"), 8)


@fault("cityscapes", "train data: agreement")
def label_ids_repainted(root):
    paint(street(root, "_labelIds"), 21)
    return str(street(root, "_labelTrainIds"))


@fault("cityscapes", "train data: agreement")
def instance_ids_repainted(root):
    return paint(street(root, "_instanceIds"), 26077)


@fault("cityscapes", "train data: agreement")
def instance_ids_truncated(root):
    return halve(street(root, "_instanceIds"))


@fault("cityscapes", "train data: label ids")
def panoptic_label_of_another_image(root):
    other = panoptic_street(root).with_name("aachen_000002_000019_gtFine_panoptic.png")
    shutil.copy(other, panoptic_street(root))
    image = Image.open(panoptic_street(root))
    image.putpixel(PIXEL, (1, 1, 1))
    image.save(panoptic_street(root))
    return str(panoptic_street(root))


@fault("cityscapes", "train data: areas")
def area_of_a_street_wrong(root):
    def edit(content):
        content["annotations"][0]["segments_info"][0]["area"] = 1

    cityscapes_json(root, edit)
    return "has area 1 in the JSON file"


@fault("cityscapes", "train data: layout")
def category_of_a_street_unknown(root):
    def edit(content):
        content["annotations"][0]["segments_info"][0]["category_id"] = 4711

    return cityscapes_json(root, edit)


@fault("cityscapes", "train data: crowds")
def crowd_of_a_street_missing(root):
    def edit(content):
        del content["annotations"][0]["segments_info"][0]["iscrowd"]

    return cityscapes_json(root, edit)
