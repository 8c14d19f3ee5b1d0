"""Drawn pictures in the files of COCO 2017, for quickstarts and tests.

About 192 x 256 pixels, upright and lying, some of the 133 classes, generated on first use below
$PANOPTIC_DL_CACHE (default ~/.cache/panoptic-dl), the same for the same seed. No licence, no
download, nothing to prepare. All sizes are 0.4 of those of COCO, all areas a sixth.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.datasets.toy.coco import toy_coco

from .coco import dataset

dataset.root = L(toy_coco)(
    root="${oc.env:PANOPTIC_DL_CACHE,'~/.cache/panoptic-dl'}",
    num_train=200,
    num_val=40,
    size=(192, 256),
    seed=0,
)
for _split in (dataset.train, dataset.test):
    for _task in (_split.panoptic, _split.semantic):
        _task.prefix = "toy_"

dataset.crop_size = (256, 256)
dataset.min_sizes = (128, 160, 192, 224, 256, 288, 320, 352, 384)
dataset.max_size = 384
dataset.image_size = (192, 256)
dataset.min_size_test, dataset.max_size_test = 256, 256
dataset.size_divisibility = 256
dataset.gaussian_sigma = 3
dataset.small_instance_area = 680
dataset.stuff_area = 680
dataset.nms_kernel = 17
