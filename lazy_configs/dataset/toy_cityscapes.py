"""Drawn street scenes in the files of Cityscapes, for quickstarts and tests.

256 x 512 pixels, 19 classes, generated on first use below $PANOPTIC_DL_CACHE (default
~/.cache/panoptic-dl), the same for the same seed. No licence, no download, nothing to prepare.
All sizes are a quarter of those of Cityscapes, all areas a sixteenth.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.datasets.toy.cityscapes import toy_cityscapes

from .cityscapes import dataset

dataset.root = L(toy_cityscapes)(
    root="${oc.env:PANOPTIC_DL_CACHE,'~/.cache/panoptic-dl'}",
    num_train=200,
    num_val=40,
    size=(256, 512),
    seed=0,
)
for _split in (dataset.train, dataset.test):
    for _task in (_split.panoptic, _split.semantic):
        _task.prefix = "toy_"

dataset.crop_size = (128, 256)
dataset.min_sizes = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
dataset.max_size = 1024
dataset.image_size = (256, 512)
dataset.min_size_test, dataset.max_size_test = 256, 512
dataset.gaussian_sigma = 4
dataset.small_instance_area = 256
dataset.stuff_area = 128
