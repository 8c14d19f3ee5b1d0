"""Make downloaded datasets ready: unpack, make what is missing, count."""

from panoptic_dl.datasets.prepare.cityscapes import check_cityscapes, prepare_cityscapes
from panoptic_dl.datasets.prepare.coco import check_coco, prepare_coco

__all__ = ["check_cityscapes", "check_coco", "prepare_cityscapes", "prepare_coco"]
