"""Post-processing of Panoptic-DeepLab: equal to Detectron2's, many times faster."""

from panoptic_dl.postprocess.instances import instances_from_panoptic
from panoptic_dl.postprocess.panoptic import get_panoptic_segmentation, get_panoptic_segmentations
from panoptic_dl.postprocess.semantic import argmax_classes

__all__ = [
    "argmax_classes",
    "get_panoptic_segmentation",
    "get_panoptic_segmentations",
    "instances_from_panoptic",
]
