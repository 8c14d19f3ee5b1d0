"""The official evaluators, by the name of a dataset in Detectron2's catalogs.

| function | task of the results | figures |
| --- | --- | --- |
| panoptic_quality | panoptic_seg | PQ SQ RQ, PQ_th SQ_th RQ_th, PQ_st SQ_st RQ_st |
| cityscapes_semantic_iou | sem_seg | IoU iIoU IoU_sup iIoU_sup |
| cityscapes_instance_ap | segm | AP AP50 |
| coco_instance_ap | bbox, segm | AP AP50 AP75 APs APm APl, AP-<class> |
| panoptic_instance_ap | bbox, segm | the same |
| semantic_iou | sem_seg | mIoU fwIoU mACC pACC, IoU-<class> ACC-<class> |
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from panoptic_dl.evaluation.cityscapes import (
    CityscapesInstanceAPEvaluator,
    CityscapesSemanticEvaluator,
)
from panoptic_dl.evaluation.coco import COCOInstanceEvaluator
from panoptic_dl.evaluation.panoptic import PanopticQualityEvaluator
from panoptic_dl.evaluation.panoptic_instances import PanopticInstanceEvaluator
from panoptic_dl.evaluation.semantic import SemanticEvaluator


def panoptic_quality(*, dataset: str) -> DatasetEvaluator:
    """Panoptic quality; outputs need "panoptic_seg"."""
    return PanopticQualityEvaluator(dataset)


def cityscapes_semantic_iou(*, dataset: str) -> DatasetEvaluator:
    """Cityscapes' IoU; outputs need "sem_seg"."""
    return CityscapesSemanticEvaluator(dataset)


def cityscapes_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """Cityscapes' mask AP; outputs may have "instances"."""
    return CityscapesInstanceAPEvaluator(dataset)


def coco_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """COCO's box and mask AP; outputs may have "instances"."""
    return COCOInstanceEvaluator(dataset)


def panoptic_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """COCO's box and mask AP, the truth being panoptic labels; outputs may have "instances"."""
    return PanopticInstanceEvaluator(dataset)


def semantic_iou(
    *, dataset: str, read_truth: Callable[[dict[str, Any]], np.ndarray]
) -> DatasetEvaluator:
    """IoU over labels that `read_truth` makes from records; outputs need "sem_seg"."""
    return SemanticEvaluator(dataset, read_truth)
