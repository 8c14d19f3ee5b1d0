"""Your own data in CVAT's format "Segmentation mask 1.1": masks of classes and of objects.

    python run.py dataset=cvat_masks dataset.root=FOLDER

FOLDER holds a labelmap.txt. The label background is stuff, all others are things. The folder is
only read: panoptic labels are made once, below $PANOPTIC_DL_CACHE. All keys:
docs/how-to/formats.md.
"""

from ._imported import SPLITTING, use_import
from .coco_format import dataset

use_import(dataset, "cvat_masks", SPLITTING)
