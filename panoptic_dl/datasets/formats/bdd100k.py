"""BDD100K's panoptic segmentation: 10,000 images of roads, 30 stuff classes and 10 things.

    <root>/bdd100k/
      images/10k/{train,val}/<id>.jpg
      labels/pan_seg/bitmasks/{train,val}/<id>.png   RGBA

R is the class (1..40; 0: void), the two lowest bits of G tell crowds and what is to be ignored,
and 256 B + A is the number of the segment. Crowds and ignored objects are no objects to be found,
in the official evaluation; as its conversion to COCO's format does, both become crowds here. That
evaluation counts void pixels of a prediction in its union, panopticapi and we do not.
"""

from pathlib import Path

import numpy as np

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import open_image
from panoptic_dl.datasets.formats.base import Export, Label
from panoptic_dl.datasets.formats.official import official_layout, paired_splits, read_table

FOLDER = "bdd100k"
FILES = ("images/10k/{}/*.jpg", "labels/pan_seg/bitmasks/{}/*.png")
IGNORED, CROWD = 1, 2  # bits of G


def recognize(root: Path) -> str:
    """What the folder is, in words; "" where it is not this dataset."""
    place = official_layout("BDD100K", root, FOLDER).base
    return "BDD100K" if (place / FILES[1].format("train")).parent.is_dir() else ""


def read(root: str | Path) -> Export:
    """Read the dataset in `root`.

    Raises:
        DatasetError: files are missing. Calling a label raises it where that is no bitmask.
    """
    layout = official_layout("BDD100K", root, FOLDER)
    names = {"train": "train", "val": "val"}
    splits = paired_splits(layout, FOLDER, FILES, names, read_label)
    return Export(read_table(FOLDER), splits)


def read_label(file: Path) -> Label:
    """The segments of a bitmask.

    Raises:
        DatasetError: it is none, or a segment has two classes.
    """
    image = open_image(file)
    if image.mode != "RGBA":
        raise DatasetError(f"{file} is no bitmask of BDD100K: its mode is {image.mode}, not RGBA")
    red, green, blue, alpha = np.moveaxis(np.asarray(image).astype(np.int32), 2, 0)
    ids = np.where(red, blue << 8 | alpha, 0)
    kinds = np.unique(np.stack([ids, red, green & (IGNORED | CROWD)], -1)[ids > 0], axis=0)
    segments: dict[int, tuple[int, int]] = {}
    for number, category, bits in kinds.tolist():
        if category > 40 or segments.get(number, (category,))[0] != category:
            raise DatasetError(f"{file}: segment {number} has class {category}, or two classes")
        # Polygons of stuff share a segment, of which one part may be a crowd.
        segments[number] = category, int(bool(bits)) & segments.get(number, (0, 1))[1]
    return ids, segments
