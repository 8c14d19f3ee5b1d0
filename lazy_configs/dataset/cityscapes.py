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
    root="${oc.env:DETECTRON2_DATASETS,datasets}",  # the folder that holds the dataset's folder
    test_split="val",  # the split that is evaluated; test: without ground truth, to be saved
    num_classes=19,  # classes that the model predicts
    thing_ids=list(range(11, 19)),  # those of them that are things
    classes=L(cityscapes_classes)(),  # names and colors, in the order of the contiguous ids
    label_divisor=1000,  # panoptic id = class * label_divisor + instance
    ignore_label=255,  # label of pixels without a class; no class may have it
    image_format="RGB",  # channel order that the network reads
    # Sizes are (height, width) in pixels; a "size" alone is that of the shortest edge.
    crop_size=(512, 1024),  # size of a training crop
    min_sizes=(  # shortest edge in training: one is chosen for each sample
        *(512, 640, 704, 832, 896, 1024, 1152, 1216),
        *(1344, 1408, 1536, 1664, 1728, 1856, 1920, 2048),
    ),
    max_size=4096,  # longest edge in training
    image_size=(1024, 2048),  # size of the files, for benchmarks
    file_format="png",  # format of the files, for benchmarks
    min_size_test=1024,  # shortest edge in tests
    max_size_test=2048,  # longest edge in tests
    augmentation="crop_first",  # reference: Detectron2 on the whole image; slower, same pixels
    cache=dict(
        folder=None,  # a fast folder for decoded images, from the second epoch on; null: none
        max_gb=100,  # largest size of that folder, in 10^9 bytes
    ),
    single_category_max_area=1.0,  # semantic crops: largest share of one class; 1 allows any
    size_divisibility=0,  # images are padded to a multiple of this; 0: what the backbone needs
    # Targets of Panoptic-DeepLab.
    gaussian_sigma=10,  # standard deviation of a center in the heatmap, in pixels
    small_instance_area=4096,  # instances below this area, in pixels, are small
    small_instance_weight=3,  # weight of their pixels in the semantic loss
    ignore_stuff_in_offset=True,  # train offsets on pixels of things alone
    ignore_crowd_in_semantic=False,  # leave crowds out of the semantic loss
    max_bad_samples=0,  # training images that may be unreadable; others stand in for them
    loss_top_k=0.2,  # share of the hardest pixels in the semantic loss
    # Post-processing.
    stuff_area=2048,  # smaller stuff segments, in pixels, become void
    nms_kernel=7,  # window in which a center is the highest, in pixels
    center_threshold=0.1,  # lowest value of a center in the heatmap
    top_k=200,  # most centers of an image
    scale_offsets=False,  # scale offsets with the output; true where images are resized in tests
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
