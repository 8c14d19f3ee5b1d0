"""BDD100K panoptic segmentation: American roads, 40 classes, 10 of them things.

7,000 training and 1,000 validation images of 720 x 1280 pixels (Yu et al., CVPR 2020).
Licence: BSD-3 for the annotations, after registration.
Prepare: `python scripts/prepare_dataset.py bdd100k $DETECTRON2_DATASETS` says what to download,
unpacks it and counts. Panoptic labels are made at the first run, below $PANOPTIC_DL_CACHE.
"""

from ._imported import use_import
from .cityscapes import dataset

use_import(dataset, "bdd100k")
dataset.root = "${oc.env:DETECTRON2_DATASETS,datasets}"  # holds bdd100k/, or is that
dataset.min_sizes = (360, 450, 540, 630, 720, 900, 1080, 1260, 1440)
dataset.max_size = 2560
dataset.image_size = (720, 1280)
dataset.file_format = "jpg"
dataset.min_size_test, dataset.max_size_test = 720, 1280
