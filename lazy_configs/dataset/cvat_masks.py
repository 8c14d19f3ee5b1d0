"""CVAT's "Segmentation mask 1.1": masks of classes and of objects, with a labelmap.txt.

    python run.py dataset=cvat_masks dataset.root=FOLDER

The label background is stuff, all others are things. The folder is only read: panoptic labels are
made once, below $PANOPTIC_DL_CACHE. docs/custom_dataset.md has all keys.
"""

from ._imported import SPLITTING, imported_data
from .coco_format import dataset

dataset.update(imported_data("cvat_masks", SPLITTING))
