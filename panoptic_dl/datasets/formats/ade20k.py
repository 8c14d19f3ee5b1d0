"""ADE20K of the Scene Parsing and Places challenges: 150 classes, 100 of them things.

    <root>/ADEChallengeData2016/
      images/{training,validation}/<id>.jpg
      annotations/{training,validation}/<id>.png            the class, 1..150; 0: none of them
      annotations_instance/{training,validation}/<id>.png   R: the thing's class, 1..100; G: number

Semantic labels are those of annotations/. Panoptic ones join both folders as Mask2Former's
preparation does, whose category ids (0..149) are kept: stuff first, then all instances over it;
pixels of things without an instance are void. A class of stuff that instances hide altogether is
not listed, where that preparation lists it without pixels.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import read_classes, read_panoptic_ids
from panoptic_dl.datasets.formats.base import Export, Label, Segments
from panoptic_dl.datasets.formats.official import official_layout, paired_splits, read_table

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
FILES = ("images/{}/*.jpg", "annotations/{}/*.png", "annotations_instance/{}/*.png")


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is none of these."""
    base = official_layout("", root, FOLDER).base
    return "ADE20K" if any((base / "annotations" / s).is_dir() for s in SPLITS.values()) else ""


def read(root: str | Path, *, task: str = "panoptic") -> Export:
    """Read the dataset in `root`.

    Args:
        task: "panoptic"; or "semantic", which needs no annotations_instance/.

    Raises:
        DatasetError: files are missing. Calling a label raises it where numbers are not official.
    """
    categories = read_table("ade20k")
    layout = official_layout("ADE20K", root, FOLDER)
    if task == "semantic":
        splits = paired_splits(layout, "ade20k", FILES[:2], SPLITS, read_semantic)
    else:
        things = tuple(c["id"] + 1 for c in categories if c["isthing"])
        label = partial(read_panoptic, things=things)
        splits = paired_splits(layout, "ade20k", FILES, SPLITS, label)
    return Export(categories, splits)


def read_semantic(classes: Path, size: tuple[int, int]) -> tuple[NDArray[np.int32], Segments]:
    """A segment for each class of an image. DatasetError where a number is none of a class."""
    ids = read_classes(classes).astype(np.int32)
    if ids.max(initial=0) > 150:
        raise DatasetError(f"{classes} has class {ids.max()}: those of ADE20K are 1..150")
    return ids, {number: (number - 1, 0) for number in np.unique(ids[ids > 0]).tolist()}


def read_panoptic(
    classes: Path, instances: Path, size: tuple[int, int], *, things: tuple[int, ...]
) -> Label:
    """The stuff of an image, and the instances over it.

    Args:
        things: their numbers in `classes`, in the order of those in `instances`.

    Raises:
        DatasetError: a number is none of a class, or the two differ in size.
    """
    ids, segments = read_semantic(classes, size)
    red_green = read_panoptic_ids(instances).astype(np.int32) & 0xFFFF
    if red_green.shape != ids.shape:
        raise DatasetError(f"{instances} and {classes} have different sizes; unpack them again")
    ids[np.isin(ids, things)] = 0
    ids = np.where(red_green >> 8, red_green, ids)  # which is above all classes
    for number in np.unique(ids[ids > 255]).tolist():
        if not 1 <= number & 255 <= len(things):
            kind = number & 255
            raise DatasetError(f"{instances} has an instance of class {kind}: 1..100 are things")
        segments[number] = things[(number & 255) - 1] - 1, 0
    shown = {*np.unique(ids).tolist()}
    return ids, {number: kind for number, kind in segments.items() if number in shown}
