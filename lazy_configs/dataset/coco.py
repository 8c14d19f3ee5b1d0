"""COCO 2017 panoptic: photographs of everyday scenes, 133 classes, 80 of them things.

118,287 training and 5,000 validation images of about 480 x 640 pixels, 20 GB (Lin et al., ECCV
2014; Kirillov et al., CVPR 2019).
Licence: annotations CC BY 4.0; images under the Flickr terms of their authors.
Prepare: `python scripts/prepare_coco.py $DETECTRON2_DATASETS` says what to download,
unpacks it and counts.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.datasets.coco import coco_classes, coco_panoptic, coco_semantic
from panoptic_dl.evaluation.metrics import evaluator_configs

_shared = dict(
    root="${dataset.root}",
    label_divisor="${dataset.label_divisor}",
    ignore_label="${dataset.ignore_label}",
)

dataset = dict(
    root="${oc.env:DETECTRON2_DATASETS,datasets}",
    test_split="val",  # or test-dev, test: images without ground truth, for evaluation.save
    num_classes=133,
    thing_ids=list(range(80)),
    classes=L(coco_classes)(),  # names and colors, in the order of the contiguous ids
    label_divisor=1000,  # panoptic id = class * label_divisor + instance
    ignore_label=255,  # of pixels without a class; no class may have it
    image_format="RGB",
    # Sizes are (height, width) in pixels; a "size" alone is that of the shortest edge.
    crop_size=(640, 640),
    min_sizes=(320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960),  # one for each sample
    max_size=960,  # of the longest edge; published metrics come from 640, an error of their recipe
    image_size=(480, 640),  # of the files, mostly; for benchmarks
    file_format="jpg",
    min_size_test=640,
    max_size_test=640,
    augmentation="crop_first",  # or reference: Detectron2 on the whole image; slower, same pixels
    # Decoded files on a fast disk, from the second epoch on: a folder, and its limit (10^9 bytes).
    cache=dict(folder=None, max_gb=100),
    single_category_max_area=1.0,  # semantic crops: largest share of one class; 1 allows any
    size_divisibility=640,  # images are padded to a multiple of this
    # Targets of Panoptic-DeepLab.
    gaussian_sigma=8,
    small_instance_area=4096,
    small_instance_weight=3,
    ignore_stuff_in_offset=True,
    ignore_crowd_in_semantic=False,
    max_bad_samples=0,  # training images that may be unreadable; others stand in for them
    loss_top_k=1.0,  # share of the hardest pixels in the semantic loss
    # Post-processing.
    stuff_area=4096,
    nms_kernel=41,
    center_threshold=0.1,
    top_k=200,
    scale_offsets=False,  # as published; True where test images are shrunk or enlarged
    train=dict(
        panoptic=L(coco_panoptic)(split="train", **_shared),
        semantic=L(coco_semantic)(split="train", **_shared),
    ),
    test=dict(
        panoptic=L(coco_panoptic)(split="${dataset.test_split}", **_shared),
        semantic=L(coco_semantic)(split="${dataset.test_split}", **_shared),
    ),
    # By streaming (ours) and official (those of the datasets' authors, for
    # `evaluation.official=true`), task and name; see `panoptic_dl.evaluation.metrics`.
    evaluators=evaluator_configs("coco"),
)
