"""Instances of a model's output on their way into files, and back.

Shapes: N instances, H W pixels.

Masks as COCO's run-length code, checked: of a cut one, pycocotools makes pixels by chance.

Shapes: H W pixels.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as coco_mask

from panoptic_dl.core.errors import EvaluationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TakenInstances:
    """Instances of one image.

    Attributes:
        image: what names it.
        categories: N dataset ids.
        scores: N numbers.
        masks: (N, H, W) bool.
        boxes: (N, 4) x0, y0, x1, y1 in pixels, right and bottom exclusive.
    """

    image: Any
    categories: list[int]
    scores: list[float]
    masks: np.ndarray
    boxes: np.ndarray


def take_instances(
    image: Any, output: Mapping[str, Any], dataset_ids: Mapping[int, int]
) -> TakenInstances:
    """Move "instances" of an output to the CPU; an output without them has found nothing.

    Args:
        dataset_ids: dataset id of each class.

    Raises:
        EvaluationError: a class has none, a score is not finite.
    """
    instances = output.get("instances")
    if instances is None:
        return TakenInstances(image, [], [], np.zeros((0, 0, 0), dtype=bool), np.zeros((0, 4)))
    categories = []
    for category in instances.pred_classes.tolist():
        if category not in dataset_ids:
            raise EvaluationError(
                f"a predicted instance has class {category}, which is none of the "
                f"{len(dataset_ids)} classes with instances"
            )
        categories.append(dataset_ids[category])
    scores = [float(score) for score in instances.scores.tolist()]
    if not np.isfinite(scores).all():
        raise EvaluationError("the score of a predicted instance is not finite")
    masks = instances.pred_masks
    if masks.dtype != torch.bool:
        masks = masks.to(torch.uint8) > 0  # as Detectron2: below 1 is outside
    boxes = instances.pred_boxes if instances.has("pred_boxes") else boxes_of(masks)
    return TakenInstances(
        image,
        categories,
        scores,
        masks.cpu().numpy(),
        boxes.tensor.cpu().numpy().astype(float),
    )


def boxes_of(masks: torch.Tensor) -> Any:
    """Detectron2's `Boxes` around masks, (N, H, W) bool; zeros around none."""
    return BitMasks(masks).get_bounding_boxes()


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
    pred_boxes = boxes_of(pred_masks)
    if boxes is not None:
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


OFFSET = 48  # of the characters of compressed codes
BITS, MORE, SIGN = 5, 0x20, 0x10


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask, (H, W) bool: "size" [H, W] and "counts", fit for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def decode(code: Any, size: tuple[int, int]) -> np.ndarray:
    """Read a code, compressed or as a list of counts: (H, W) bool.

    Args:
        code: what JSON holds.
        size: (height, width) as it must be.

    Raises:
        EvaluationError: it is no run-length code, is of another size, or does not end where the
            mask ends.
    """
    if not isinstance(code, dict) or "size" not in code or "counts" not in code:
        raise EvaluationError(
            'a "segmentation" is no run-length code (size and counts); encode polygons with '
            "pycocotools' mask.frPyObjects"
        )
    if list(code["size"]) != list(size):
        raise EvaluationError(
            f"a mask is {tuple(code['size'])}, the image {size} (height, width): predict at the "
            "size of the image file"
        )
    counts = code["counts"]
    try:
        if isinstance(counts, list):
            runs = [int(count) for count in counts]
            if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
                raise ValueError("its counts do not add up to the mask")
            code = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
        elif not isinstance(counts, str):
            raise ValueError("its counts are no text")
        mask: np.ndarray = coco_mask.decode(code)
        # Codes as pycocotools writes them come back the same; others are read slowly.
        is_odd = isinstance(counts, str) and encode(mask)["counts"] != counts
        if is_odd and sum(_runs(counts)) != size[0] * size[1]:
            raise ValueError("it ends too early")
    except ValueError as error:
        raise EvaluationError(f"a mask has a damaged run-length code: {error}") from error
    return mask.astype(bool)


def _runs(counts: str) -> list[int]:
    """Numbers of pixels of alternating runs, from a compressed code.

    Each is written in groups of five bits, lowest first; from the fourth on, as the difference to
    that two before.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        group = byte - OFFSET
        value |= (group & 0x1F) << shift
        shift += BITS
        if not group & MORE:
            if group & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs
