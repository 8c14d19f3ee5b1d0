"""Panoptic-DeepLab: classes, a heatmap of centers and offsets, grouped into a panoptic map."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from panoptic_dl.data.cache import decoded_cache
from panoptic_dl.data.loader import test_loader, train_loader
from panoptic_dl.data.mapper import PanopticTrainMapper, TestMapper
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.modes.evaluate import Evaluation

task = dict(
    model=L(PanopticDeepLab)(
        backbone="${backbone}",
        sem_seg_head="${head.panoptic.semantic}",
        ins_embed_head="${head.panoptic.instance}",
        pixel_mean="${pixels.mean}",
        pixel_std="${pixels.std}",
        thing_ids="${dataset.thing_ids}",
        label_divisor="${dataset.label_divisor}",
        size_divisibility="${dataset.size_divisibility}",
        stuff_area="${dataset.stuff_area}",
        center_threshold="${dataset.center_threshold}",
        nms_kernel="${dataset.nms_kernel}",
        top_k="${dataset.top_k}",
        scale_offsets="${dataset.scale_offsets}",
        # What a metric does not need can be left out: logits for mIoU, instances for AP.
        predict_semantic=True,
        predict_instances=True,
    ),
    train_loader=L(train_loader)(
        dataset="${dataset.train.panoptic}",
        mapper=L(PanopticTrainMapper)(
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length="${dataset.min_sizes}",
                    max_size="${dataset.max_size}",
                    sample_style="choice",
                ),
                L(T.RandomCrop)(crop_type="absolute", crop_size="${dataset.crop_size}"),
                L(T.RandomFlip)(),
            ],
            augmentation="${dataset.augmentation}",
            resize=None,  # these three are of the group `augmentation`
            photometric=None,
            copy_paste=None,
            cache=L(decoded_cache)(
                folder="${dataset.cache.folder}", max_gb="${dataset.cache.max_gb}"
            ),
            image_format="${dataset.image_format}",
            num_classes="${dataset.num_classes}",
            thing_ids="${dataset.thing_ids}",
            ignore_label="${dataset.ignore_label}",
            gaussian_sigma="${dataset.gaussian_sigma}",
            small_instance_area="${dataset.small_instance_area}",
            small_instance_weight="${dataset.small_instance_weight}",
            ignore_stuff_in_offset="${dataset.ignore_stuff_in_offset}",
            ignore_crowd_in_semantic="${dataset.ignore_crowd_in_semantic}",
        ),
        batch_size="${train.batch_size}",
        num_workers="${train.num_workers}",
        seed="${seed}",
        accumulate="${train.accumulate}",
        images_per_gpu="${train.images_per_gpu}",
        aspect_ratio_grouping=True,
        overfit_batches="${train.overfit_batches}",
        max_bad_samples="${dataset.max_bad_samples}",
    ),
    evaluation=L(Evaluation)(
        dataset="${dataset.test.panoptic}",
        loader=L(test_loader)(
            dataset="${dataset.test.panoptic}",
            mapper=L(TestMapper)(
                augmentations=[
                    L(T.ResizeShortestEdge)(
                        short_edge_length="${dataset.min_size_test}",
                        max_size="${dataset.max_size_test}",
                    )
                ],
                image_format="${dataset.image_format}",
            ),
            num_workers="${train.num_workers}",
        ),
        evaluators="${dataset.evaluators.streaming.panoptic}",
        official="${dataset.evaluators.official.panoptic}",
        settings="${evaluation}",
        published="${published}",
        published_note="${published_note}",
        published_row="${published_row}",
        row="${experiment_name:${choice}}",
    ),
)
