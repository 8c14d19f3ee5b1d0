"""COCO: PNGs of labels."""

import cv2
import numpy as np
from PIL import Image

from .fault import PIXEL, coco_json, fault, halve, label_of, save_as


@fault("coco", "train data: labels")
def label_truncated(root):
    return halve(label_of(root))


@fault("coco", "train data: labels")
def label_in_grey(root):
    return save_as(label_of(root), "L", "PNG")


@fault("coco", "train data: labels")
def label_compressed_with_loss(root):
    return save_as(label_of(root), "RGB", "JPEG")


@fault("coco", "train data: labels")
def label_of_16_bits(root):
    deep = np.asarray(Image.open(label_of(root)).convert("RGB")).astype(np.uint16)
    assert cv2.imwrite(str(label_of(root)), deep[..., ::-1])
    return str(label_of(root))


@fault("coco", "train data: sizes")
def label_of_another_size(root):
    Image.open(label_of(root)).resize((40, 30), Image.Resampling.NEAREST).save(label_of(root))
    return str(label_of(root))


@fault("coco", "train data: label ids")
def label_with_a_strange_id(root):
    image = Image.open(label_of(root))
    image.putpixel(PIXEL, (7, 7, 7))
    image.save(label_of(root))
    return str(label_of(root))


@fault("coco", "train data: label ids")
def segment_that_json_lacks(root):
    coco_json(root, lambda content: content["annotations"][1]["segments_info"].pop())
    return str(label_of(root))


@fault("coco", "train data: label ids")
def segment_without_pixels(root):
    ghost = {"id": 99, "category_id": 1, "iscrowd": 0, "area": 5, "bbox": [0, 0, 1, 5]}
    coco_json(root, lambda content: content["annotations"][1]["segments_info"].append(ghost))
    return str(label_of(root))
