"""Cityscapes: street scenes of 50 cities, 19 classes, 8 of them things (Cordts et al., CVPR 2016).

2,975 training and 500 validation images of 1024 x 2048 pixels with fine labels; 12 GB.
Licence: free for non-commercial use after registration at cityscapes-dataset.com; not to pass on.
Prepare: put leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into $DETECTRON2_DATASETS,
then `python scripts/prepare_cityscapes.py $DETECTRON2_DATASETS`.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.datasets.cityscapes import (
    cityscapes_classes,
    cityscapes_panoptic,
    cityscapes_semantic,
)
from panoptic_dl.evaluation.metrics import evaluator_configs

_shared = dict(
    root="${dataset.root}",
    label_divisor="${dataset.label_divisor}",
    ignore_label="${dataset.ignore_label}",
)

dataset = dict(
    root="${oc.env:DETECTRON2_DATASETS,datasets}",
    test_split="val",  # or test: images without ground truth, for evaluation.save
    num_classes=19,
    thing_ids=list(range(11, 19)),
    classes=L(cityscapes_classes)(),  # names and colors, in the order of the contiguous ids
    label_divisor=1000,  # panoptic id = class * label_divisor + instance
    ignore_label=255,  # of pixels without a class; no class may have it
    image_format="RGB",
    # Sizes are (height, width) in pixels; a "size" alone is that of the shortest edge.
    crop_size=(512, 1024),
    min_sizes=(  # one is chosen for each training sample
        *(512, 640, 704, 832, 896, 1024, 1152, 1216),
        *(1344, 1408, 1536, 1664, 1728, 1856, 1920, 2048),
    ),
    max_size=4096,  # of the longest edge
    image_size=(1024, 2048),  # of the files, for benchmarks
    file_format="png",
    min_size_test=1024,
    max_size_test=2048,
    augmentation="crop_first",  # or reference: Detectron2 on the whole image; slower, same pixels
    # Decoded files on a fast disk, from the second epoch on: a folder, and its limit (10^9 bytes).
    cache=dict(folder=None, max_gb=100),
    single_category_max_area=1.0,  # semantic crops: largest share of one class; 1 allows any
    size_divisibility=0,  # images are padded to a multiple of this; 0: what the backbone needs
    # Targets of Panoptic-DeepLab.
    gaussian_sigma=10,
    small_instance_area=4096,
    small_instance_weight=3,
    ignore_stuff_in_offset=True,
    ignore_crowd_in_semantic=False,
    max_bad_samples=0,  # training images that may be unreadable; others stand in for them
    loss_top_k=0.2,  # share of the hardest pixels in the semantic loss
    # Post-processing.
    stuff_area=2048,
    nms_kernel=7,
    center_threshold=0.1,
    top_k=200,
    scale_offsets=False,  # as published; True where test images are shrunk or enlarged
    train=dict(
        panoptic=L(cityscapes_panoptic)(split="train", **_shared),
        semantic=L(cityscapes_semantic)(split="train", **_shared),
    ),
    test=dict(
        panoptic=L(cityscapes_panoptic)(split="${dataset.test_split}", **_shared),
        semantic=L(cityscapes_semantic)(split="${dataset.test_split}", **_shared),
    ),
    # By streaming (ours) and official (those of the datasets' authors, for
    # `evaluation.official=true`), task and name; see `panoptic_dl.evaluation.metrics`.
    evaluators=evaluator_configs("cityscapes"),
)
