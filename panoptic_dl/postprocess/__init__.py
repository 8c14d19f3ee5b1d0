"""Post-processing of Panoptic-DeepLab: equal to Detectron2's, many times faster."""

from panoptic_dl.postprocess.instances import instances_from_panoptic, most_likely_class
from panoptic_dl.postprocess.panoptic import get_panoptic_segmentation, get_panoptic_segmentations

__all__ = [
    "get_panoptic_segmentation",
    "get_panoptic_segmentations",
    "instances_from_panoptic",
    "most_likely_class",
]
