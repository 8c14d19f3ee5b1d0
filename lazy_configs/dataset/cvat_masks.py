"""Your own data in CVAT's "Segmentation mask 1.1": masks of classes and objects, labelmap.txt.

    python run.py dataset=cvat_masks dataset.root=FOLDER

The label background is stuff, all others are things. The folder is only read: panoptic labels are
made once, below $PANOPTIC_DL_CACHE. docs/how-to/formats.md has all keys.
"""

from ._imported import SPLITTING, use_import
from .coco_format import dataset

use_import(dataset, "cvat_masks", SPLITTING)
