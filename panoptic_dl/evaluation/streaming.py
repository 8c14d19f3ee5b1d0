"""Evaluators that keep counts instead of files, by the name of a dataset in Detectron2's catalogs.

Their figures are those of `official.py`, under the same names. They write nothing, read each label
once, and share small integers, and a few numbers a prediction for AP, over the processes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.coco_instances import StreamingCOCOInstanceEvaluator
from panoptic_dl.evaluation.official import StreamingPanopticInstanceEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator


def panoptic_quality(*, dataset: str) -> DatasetEvaluator:
    """Panoptic quality; outputs need "panoptic_seg"."""
    return StreamingPanopticEvaluator(dataset)


def cityscapes_semantic_iou(*, dataset: str) -> DatasetEvaluator:
    """Cityscapes' IoU; outputs need "sem_seg"."""
    return StreamingCityscapesSemanticEvaluator(dataset)


def cityscapes_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """Cityscapes' mask AP; outputs may have "instances"."""
    return StreamingCityscapesInstanceEvaluator(dataset)


def coco_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """COCO's box and mask AP; outputs may have "instances"."""
    return StreamingCOCOInstanceEvaluator(dataset)


def panoptic_instance_ap(*, dataset: str) -> DatasetEvaluator:
    """COCO's box and mask AP, the truth being panoptic labels; outputs may have "instances"."""
    return StreamingPanopticInstanceEvaluator(dataset)


def semantic_iou(
    *, dataset: str, read_truth: Callable[[dict[str, Any]], np.ndarray]
) -> DatasetEvaluator:
    """IoU over labels that `read_truth` makes from records; outputs need "sem_seg"."""
    return StreamingSemanticEvaluator(dataset, read_truth)
