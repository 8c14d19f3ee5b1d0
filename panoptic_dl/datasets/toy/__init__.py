"""Toy data sets: drawn scenes on disk in the exact formats of Cityscapes and COCO."""

from panoptic_dl.datasets.toy.cityscapes import toy_cityscapes
from panoptic_dl.datasets.toy.coco import toy_coco

__all__ = ["toy_cityscapes", "toy_coco"]
