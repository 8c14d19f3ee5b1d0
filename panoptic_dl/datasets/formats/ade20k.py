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

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import read_classes, read_panoptic_ids
from panoptic_dl.datasets.formats.base import Export, Label
from panoptic_dl.datasets.formats.official import official_layout, paired_splits, read_table

FOLDER = "ADEChallengeData2016"
SPLITS = {"train": "training", "val": "validation"}
FILES = ("images/{}/*.jpg", "annotations/{}/*.png", "annotations_instance/{}/*.png")


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is not this dataset."""
    place = official_layout("ADE20K", root, FOLDER).base
    return "ADE20K" if (place / FILES[1].format("training")).parent.is_dir() else ""


def read(root: str | Path, *, task: str = "panoptic") -> Export:
    """Read the dataset in `root`.

    Args:
        task: "panoptic"; or "semantic", which needs no annotations_instance/.

    Raises:
        DatasetError: files are missing. Calling a label raises it where numbers are not official.
    """
    categories = read_table("ade20k")
    files = FILES if task == "panoptic" else FILES[:2]
    label = partial(read_label, things=tuple(c["id"] + 1 for c in categories if c["isthing"]))
    layout = official_layout("ADE20K", root, FOLDER)
    return Export(categories, paired_splits(layout, "ade20k", files, SPLITS, label))


def read_label(classes: Path, instances: Path | None = None, *, things: tuple[int, ...]) -> Label:
    """The segments of an image: a class each without `instances`, else panoptic ones.

    Args:
        things: their numbers in `classes`, in the order of those in `instances`.

    Raises:
        DatasetError: a number is none of a class.
    """
    ids = read_classes(classes).astype(np.int32)
    if ids.max(initial=0) > 150:
        raise DatasetError(f"{classes} has class {ids.max()}: those of ADE20K are 1..150")
    if instances is not None:
        red_green = read_panoptic_ids(instances) & 0xFFFF
        if red_green.shape != ids.shape:
            raise DatasetError(f"{instances} and {classes} have different sizes; unpack them again")
        ids[np.isin(ids, things)] = 0
        ids = np.where(red_green >> 8, red_green, ids).astype(np.int32)  # above all classes
    segments = {}
    for number in np.unique(ids[ids > 0]).tolist():
        kind = number if number < 256 else number & 255
        if number >= 256 and not 1 <= kind <= len(things):
            raise DatasetError(f"{instances} has an instance of class {kind}: 1..100 are things")
        segments[number] = (kind if number < 256 else things[kind - 1]) - 1, 0
    return ids, segments
