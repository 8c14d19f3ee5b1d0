"""PASCAL VOC 2012 segmentation: photographs, 21 classes, all but the background things.

1,464 training and 1,449 validation images of about 375 x 500 pixels, 2 GB (Everingham et al., IJCV
2015). The 10,582 "trainaug" images of published results are not in the archive.
Licence: Flickr's terms of use, for research.
Prepare: `python scripts/prepare_dataset.py voc $DETECTRON2_DATASETS` says what to download, unpacks
it and counts. Panoptic labels are made at the first run, below $PANOPTIC_DL_CACHE.
"""

from ._imported import use_import
from .coco_format import dataset

use_import(dataset, "voc")
dataset.root = "${oc.env:DETECTRON2_DATASETS,datasets}"  # holds VOCdevkit/VOC2012/, or is that
# DeepLab's crop and scales (0.5 to 2), around a test size of 512.
dataset.crop_size = (512, 512)
dataset.min_sizes = (256, 320, 384, 448, 512, 640, 768, 896, 1024)
dataset.max_size = 2048
dataset.image_size = (375, 500)
dataset.min_size_test, dataset.max_size_test = 512, 2048
dataset.loss_top_k = 1.0
