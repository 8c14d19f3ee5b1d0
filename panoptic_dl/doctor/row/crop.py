"""The training crop against what image pooling averages over.

Detectron2 pools over windows of the crop's size and refuses images whose features are not a
multiple of it. Here the window slides over any size: nothing fails, but figures depend on the crop.
"""

import math

from detectron2.data.transforms import ResizeShortestEdge

from panoptic_dl.models.heads import PADDING
from panoptic_dl.models.image_pooling import ClampedAvgPool2d

from ..patient import Patient
from ..verdicts import Verdict, ok, warn

# (height, width) of the published recipes, arXiv:1911.10194 and Detectron2's Panoptic-DeepLab.
PUBLISHED = {"cityscapes": (512, 1024), "coco": (640, 640)}


def look_at_crop(patient: Patient) -> Verdict:
    """Which window image pooling has, in training and in tests."""
    height, width = patient.sizes["crop_size"]
    windows = {
        module.kernel_size
        for module in patient.part("model").modules()
        if isinstance(module, ClampedAvgPool2d)
    }
    if not windows:
        return ok(f"crop {height} x {width}; the heads pool globally")
    window = max(windows)
    stride = max(1, math.ceil(height / PADDING) * PADDING // window[0])
    feature = _test_feature(patient, stride)
    divisible = all(f % w == 0 for f, w in zip(feature, window, strict=True))
    found = (
        f"crop {height} x {width}, image pooling over {window[0]} x {window[1]}; test images are "
        f"{feature[0]} x {feature[1]} there, "
        + (
            "a multiple of it"
            if divisible
            else "no multiple of it (Detectron2 would stop; here it slides)"
        )
    )
    published = PUBLISHED.get(patient.choice["dataset"])
    if published not in (None, (height, width)):
        assert published is not None
        return warn(
            f"{found}; the published crop is {published[0]} x {published[1]}",
            f"nothing, if meant; else dataset.crop_size=[{published[0]},{published[1]}]",
        )
    if height % PADDING or width % PADDING:
        best = [math.ceil(side / PADDING) * PADDING for side in (height, width)]
        return warn(
            f"{found}; crops are padded with black to multiples of {PADDING}",
            f"dataset.crop_size=[{best[0]},{best[1]}]",
        )
    return ok(found)


def _test_feature(patient: Patient, stride: int) -> tuple[int, int]:
    """(height, width) of the coarsest feature of an image of the usual size, in tests."""
    size = ResizeShortestEdge.get_output_shape(
        *patient.sizes["image_size"],
        patient.sizes["min_size_test"],
        patient.sizes["max_size_test"],
    )
    multiple = patient.sizes["size_divisibility"] or PADDING
    padded = [math.ceil(side / multiple) * multiple for side in size]
    return padded[0] // stride, padded[1] // stride
