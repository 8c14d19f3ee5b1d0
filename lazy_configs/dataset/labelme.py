"""Your own data from LabelMe: a folder of images, each with a JSON file of shapes.

    python run.py dataset=labelme dataset.root=FOLDER

Shapes become things; what none covers becomes the class background. The folder is only read:
panoptic labels are made once, below $PANOPTIC_DL_CACHE. All keys: docs/how-to/formats.md.
"""

from ._imported import OPTIONS, SPLITTING, use_import
from .coco_format import dataset

use_import(dataset, "labelme", OPTIONS, SPLITTING)
