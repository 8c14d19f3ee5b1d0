"""Cityscapes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .fault import PIXEL, edit_json, fault, halve, save_as

CITY = "gtFine/train/bonn/bonn_000001_000019_gtFine"
STREET = "leftImg8bit/train/bonn/bonn_000001_000019_leftImg8bit.png"


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
def train_ids_in_color(root):
    file = save_as(street(root, "_labelTrainIds"), "RGB", "PNG")
    image = Image.open(file)
    image.putpixel(PIXEL, (7, 7, 8))
    image.save(file)
    return file


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


@fault("cityscapes", "train data: JSON file")
def crowd_of_a_street_missing(root):
    def edit(content):
        del content["annotations"][0]["segments_info"][0]["iscrowd"]

    return cityscapes_json(root, edit)
