"""DeepLabV3+: semantic segmentation, a class for each pixel."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from panoptic_dl.data.mapper import SemanticTrainMapper
from panoptic_dl.models.deeplab_v3plus import DeepLabV3Plus

from .panoptic import task as _panoptic

_train_loader, _evaluation = _panoptic.train_loader, _panoptic.evaluation
_train_loader.dataset = "${dataset.train.semantic}"
_train_loader.mapper = L(SemanticTrainMapper)(
    augmentations=[
        _train_loader.mapper.augmentations[0],  # the same choice of shortest edge
        L(T.RandomCrop_CategoryAreaConstraint)(
            crop_type="absolute",
            crop_size="${dataset.crop_size}",
            single_category_max_area="${dataset.single_category_max_area}",
            ignored_category="${dataset.ignore_label}",
        ),
        L(T.RandomFlip)(),
    ],
    augmentation="${dataset.augmentation}",
    resize=None,
    photometric=None,
    copy_paste=None,
    cache=_train_loader.mapper.cache,
    image_format="${dataset.image_format}",
    num_classes="${dataset.num_classes}",
    ignore_label="${dataset.ignore_label}",
)
_evaluation.dataset = "${dataset.test.semantic}"
_evaluation.loader.dataset = "${dataset.test.semantic}"
_evaluation.evaluators = "${dataset.evaluators.streaming.semantic}"
_evaluation.official = "${dataset.evaluators.official.semantic}"

task = dict(
    model=L(DeepLabV3Plus)(
        backbone="${backbone}",
        sem_seg_head="${head.semantic}",
        pixel_mean="${pixels.mean}",
        pixel_std="${pixels.std}",
    ),
    train_loader=_train_loader,
    evaluation=_evaluation,
)
