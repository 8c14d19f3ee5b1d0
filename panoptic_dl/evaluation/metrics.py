"""From the results of evaluators to the figures that tables publish.

All figures are percentages, 0..100. One that cannot be computed (no image has such a class) is NaN:
"n/a" in print, null in JSON, never a zero or a gap.
"""

import math
from collections.abc import Mapping
from typing import Any

from panoptic_dl.core.errors import EvaluationError

Results = Mapping[str, Mapping[str, Any]]

TOLERANCE = 1e-6  # of percentages; sums of floats may end a hair above 100


_KINDS = [f"{name}_{kind}" for kind in ("th", "st") for name in ("PQ", "SQ", "RQ")]
HEADLINE = ("PQ", "SQ", "RQ", "mIoU", "AP", "box_AP", "mask_AP", *_KINDS)
"""Names of the figures that tables show, in their order."""


def headline(results: Results) -> dict[str, float]:
    """Pick the figures that published tables show from the results of all evaluators.

    Args:
        results: what Detectron2's evaluators return, `{"panoptic_seg": {"PQ": ...}, ...}`.

    Returns:
        In the order of the tables, what there is of
        PQ, SQ, RQ, mIoU, AP (masks, Cityscapes), box_AP and mask_AP (COCO), and PQ, SQ, RQ of
        things (`PQ_th`) and stuff (`PQ_st`).

    Raises:
        EvaluationError: a figure lies outside 0..100.
    """
    panoptic = results.get("panoptic_seg", {})
    semantic = results.get("sem_seg", {})
    boxes, masks = results.get("bbox", {}), results.get("segm", {})
    sources = {name: panoptic.get(name) for name in ("PQ", "SQ", "RQ")}
    sources["mIoU"] = semantic.get("mIoU", semantic.get("IoU"))  # Cityscapes' evaluator says IoU
    if boxes:
        sources |= {"box_AP": boxes.get("AP"), "mask_AP": masks.get("AP")}
    else:
        sources["AP"] = masks.get("AP")
    sources |= {
        f"{name}_{kind}": panoptic.get(f"{name}_{kind}")
        for kind in ("th", "st")
        for name in ("PQ", "SQ", "RQ")
    }
    return {
        name: checked(float(value), name) for name, value in sources.items() if value is not None
    }


def checked(value: float, name: str) -> float:
    """Return a percentage that can be one, or NaN.

    Raises:
        EvaluationError: it lies outside 0..100.
    """
    if math.isnan(value):
        return value
    if not -TOLERANCE <= value <= 100 + TOLERANCE:
        raise EvaluationError(
            f"{name} = {value:.3f} is no percentage: the truth contradicts itself. Areas in the "
            "JSON file that do not count the pixels of the PNG files do this: prepare it again"
        )
    return min(max(value, 0.0), 100.0)
