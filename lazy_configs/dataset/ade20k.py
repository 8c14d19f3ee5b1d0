"""ADE20K: scenes of all kinds, 150 classes, 100 of them things.

20,210 training and 2,000 validation images of about 512 x 683 pixels, 1 GB (Zhou et al., CVPR
2017). The semantic task has the official labels of 150 classes, the panoptic one joins them with
the instances as Mask2Former's preparation does.
Licence: images for non-commercial research, annotations BSD-3.
Prepare: `python scripts/prepare_dataset.py ade20k $DETECTRON2_DATASETS` says what to download,
unpacks it and counts. Panoptic labels are made at the first run, below $PANOPTIC_DL_CACHE.
"""

from ._imported import use_import
from .coco_format import dataset

use_import(dataset, "ade20k", task="${choice.task}")
dataset.root = "${oc.env:DETECTRON2_DATASETS,datasets}"  # holds ADEChallengeData2016/, or is that
# Mask2Former's sizes for panoptic segmentation; conf/recipe/ade20k_semantic.yaml has others.
dataset.crop_size = (640, 640)
dataset.min_sizes = tuple(range(320, 1281, 64))
dataset.max_size = 2560
dataset.image_size = (512, 683)
dataset.min_size_test, dataset.max_size_test = 640, 2560
dataset.loss_top_k = 1.0
dataset.stuff_area = 4096
dataset.nms_kernel = 41
