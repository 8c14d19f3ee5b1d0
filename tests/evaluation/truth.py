"""A model that knows the truth: predictions in the formats of Detectron2's evaluators.

Shapes: K classes, H W pixels, N instances.
"""

import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from panopticapi.utils import rgb2id
from PIL import Image

LABEL_DIVISOR = 1000


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
