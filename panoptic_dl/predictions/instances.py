"""Instances of a model's output on their way into files, and back.

Shapes: N instances, H W pixels.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_dl.core.errors import EvaluationError


class Detection(NamedTuple):
    """One instance, on the CPU."""

    category: int  # dataset id
    score: float
    mask: np.ndarray  # (H, W) bool
    box: list[float]  # x0, y0, x1, y1 in pixels, right and bottom exclusive


def extract_instances(output: Mapping[str, Any], dataset_ids: Mapping[int, int]) -> list[Detection]:
    """Move "instances" of an output to the CPU; an output without them has no detections.

    Args:
        dataset_ids: dataset id of each class.

    Raises:
        EvaluationError: a class has none, a score is not finite.
    """
    instances = output.get("instances")
    if instances is None:
        return []
    classes = instances.pred_classes.tolist()
    for category in classes:
        if category not in dataset_ids:
            raise EvaluationError(
                f"a predicted instance has class {category}, which is none of the "
                f"{len(dataset_ids)} classes with instances"
            )
    scores = [float(score) for score in instances.scores.tolist()]
    if not np.isfinite(scores).all():
        raise EvaluationError("the score of a predicted instance is not finite")
    masks = instances.pred_masks
    if masks.dtype != torch.bool:
        masks = masks.to(torch.uint8) > 0  # as Detectron2: below 1 is outside
    has_boxes = instances.has("pred_boxes")
    boxes = instances.pred_boxes if has_boxes else BitMasks(masks).get_bounding_boxes()
    return [
        Detection(dataset_ids[category], score, mask, box)
        for category, score, mask, box in zip(
            classes, scores, masks.cpu().numpy(), boxes.tensor.tolist(), strict=True
        )
    ]


def make_instances(
    masks: list[np.ndarray],
    classes: list[int],
    scores: list[float],
    size: tuple[int, int],
    *,
    boxes: list[list[float]] | None = None,
) -> Instances:
    """Detectron2's `Instances` of an image of the size (height, width), maybe none.

    `boxes` are left, top, width and height in pixels; None: around the masks.
    """
    pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    if boxes is None:
        pred_boxes = BitMasks(pred_masks).get_bounding_boxes()
    else:
        corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        pred_boxes = Boxes(corners)
    return Instances(
        size,
        pred_masks=pred_masks,
        pred_boxes=pred_boxes,
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float64),
    )
