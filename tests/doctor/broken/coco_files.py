"""COCO: files, folders and images."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .fault import fault, halve, image_of, label_of


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


@fault("coco", "train data: image modes")
def image_of_16_bits(root):
    file = image_of(root)
    deep = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(file, format="PNG")
    return str(file)


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
