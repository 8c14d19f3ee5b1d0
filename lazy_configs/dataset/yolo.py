"""Your own data in the segmentation format of Ultralytics YOLO: the folder of a data.yaml.

    python run.py dataset=yolo dataset.root=FOLDER

Polygons become things; what none covers becomes the class background. The folder is only read:
panoptic labels are made once, below $PANOPTIC_DL_CACHE. All keys: docs/how-to/formats.md.
"""

from ._imported import OPTIONS, SPLITTING, use_import
from .coco_format import dataset

use_import(dataset, "yolo", OPTIONS, SPLITTING)
