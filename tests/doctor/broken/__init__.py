"""A library of broken datasets: a healthy tiny one, and one function for each fault."""

from . import cityscapes, coco_files, coco_json, coco_labels
from .fault import FAULTS, image_of, write_healthy

__all__ = [
    "FAULTS",
    "cityscapes",
    "coco_files",
    "coco_json",
    "coco_labels",
    "image_of",
    "write_healthy",
]
