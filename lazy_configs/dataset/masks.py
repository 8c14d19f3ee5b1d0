"""Your own images with one mask each: PNGs of class ids, or of colors with a table.

    python run.py task=semantic dataset=masks dataset.root=FOLDER

Masks have classes and no instances: for the semantic task. The folder is only read: labels are made
once, below $PANOPTIC_DL_CACHE. docs/how-to/formats.md has all keys.
"""

from ._imported import SPLITTING, use_import
from .coco_format import dataset

use_import(
    dataset,
    "masks",
    SPLITTING,
    masks=None,  # pattern of the masks' paths, "gt/*_mask.png", where they are not found
    names=None,  # file of classes, where it is not called classes.yaml, labelmap.txt, ...
    mask_ignore_label=255,  # number, in masks, of pixels without a class
)
