"""Your own data as COCO instances: exports of Roboflow, CVAT, Label Studio and Datumaro.

    python run.py dataset=coco_instances dataset.root=FOLDER

Masks become things; what none covers becomes the class background. The folder is only read:
panoptic labels are made once, below $PANOPTIC_DL_CACHE. All keys: docs/how-to/formats.md.
"""

from ._imported import OPTIONS, SPLITTING, use_import
from .coco_format import dataset

use_import(dataset, "coco_instances", OPTIONS, SPLITTING)
