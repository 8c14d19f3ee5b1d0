"""Outputs of models that know the ground truth, or err, in the formats of Detectron2's evaluators.

Shapes: K classes, H W pixels, N instances.
"""

import os
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from panopticapi.utils import rgb2id
from PIL import Image

LABEL_DIVISOR = 1000
REAL = Path(os.environ.get("PANOPTIC_DL_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def predict(record: dict, num_classes: int, thing_ids: set[int], *, with_logits=True) -> dict:
    """The output of a perfect model for one record; void is -1 in the panoptic map."""
    ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
    panoptic = np.full(ids.shape, -1, dtype=np.int64)
    semantic = np.zeros(ids.shape, dtype=np.int64)
    counts, masks, classes = {}, [], []
    for segment in record["segments_info"]:
        category, mask = segment["category_id"], ids == segment["id"]
        semantic[mask] = category
        if segment["iscrowd"]:
            continue
        if category in thing_ids:
            counts[category] = counts.get(category, 0) + 1
            masks.append(mask)
            classes.append(category)
        panoptic[mask] = category * LABEL_DIVISOR + counts.get(category, 0)
    output = {"panoptic_seg": (torch.from_numpy(panoptic), None)}
    if with_logits:
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(semantic), num_classes)
        output["sem_seg"] = one_hot.permute(2, 0, 1).float()  # (H, W, K) -> (K, H, W)
    if masks:
        output["instances"] = make_instances(np.stack(masks), classes)
    return output


def err(
    record: dict,
    num_classes: int,
    thing_ids: set[int],
    draw: np.random.Generator,
    *,
    with_logits: bool = True,
) -> dict:
    """The truth, moved by some pixels and with holes; some things have another class."""
    perfect = predict(record, num_classes, thing_ids, with_logits=False)["panoptic_seg"][0].numpy()
    panoptic = np.roll(perfect, draw.integers(0, 6, 2), axis=(0, 1))
    for label in np.unique(panoptic):
        if draw.random() < 0.1 and label >= 0:
            other = draw.integers(num_classes) * LABEL_DIVISOR + 900
            panoptic[(panoptic == label) & (draw.random(panoptic.shape) < 0.9)] = other
    things = [
        label for label in np.unique(panoptic) if label >= 0 and label // LABEL_DIVISOR in thing_ids
    ]
    output = {"panoptic_seg": (torch.from_numpy(panoptic), None)}
    if with_logits:
        semantic = torch.from_numpy(np.where(panoptic < 0, 0, panoptic // LABEL_DIVISOR))
        one_hot = torch.nn.functional.one_hot(semantic, num_classes)
        output["sem_seg"] = one_hot.permute(2, 0, 1).float()
    if things:
        output["instances"] = make_instances(
            np.stack([panoptic == label for label in things]),
            [int(label) // LABEL_DIVISOR for label in things],
            draw.random(len(things)).astype(np.float32).tolist(),
        )
    return output


def make_instances(masks: np.ndarray, classes: list[int], scores=None) -> Instances:
    """Instances with boxes around masks (N, H, W)."""
    pred_masks = torch.from_numpy(masks)
    return Instances(
        masks.shape[1:],
        pred_masks=pred_masks,
        pred_boxes=BitMasks(pred_masks).get_bounding_boxes(),
        pred_classes=torch.tensor(classes),
        scores=torch.ones(len(classes)) if scores is None else torch.tensor(scores),
    )


def evaluate(evaluator, records, outputs) -> dict:
    """What Detectron2's `inference_on_dataset` does with a model's outputs."""
    evaluator.reset()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    return evaluator.evaluate()
