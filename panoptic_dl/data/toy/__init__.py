"""Toy data sets: drawn scenes on disk in the exact formats of Cityscapes and COCO."""

from panoptic_dl.data.toy.cityscapes import toy_cityscapes

__all__ = ["toy_cityscapes"]
