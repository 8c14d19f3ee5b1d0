"""From classes, centres and offsets to a panoptic map and its instances (Panoptic-DeepLab).

Legend: K classes, H W pixels of the output, M instances.
"""

import warnings
from collections.abc import Collection

import torch
from detectron2.projects.panoptic_deeplab.post_processing import get_panoptic_segmentation
from detectron2.structures import Boxes, Instances
from torch import Tensor

VOID = -1


def panoptic_segmentation(
    sem_seg: Tensor,
    center: Tensor,
    offset: Tensor,
    *,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    threshold: float,
    nms_kernel: int,
    top_k: int,
) -> Tensor:
    """Group thing pixels around centres, give each group its most frequent class, add stuff.

    Cheng et al. 2020, section 3.3.

    Args:
        sem_seg: (H, W) int64 category ids.
        center: (1, H, W) heatmap of centres, about 0 to 1.
        offset: (2, H, W) offsets (y, x) in pixels from a pixel to its centre.
        thing_ids: category ids of things.
        label_divisor: panoptic id = category id * label_divisor + number, from 1 per category.
        stuff_area: stuff with fewer pixels becomes void.
        threshold: lowest heatmap value of a centre.
        nms_kernel: side in pixels (odd) of the window in which only the largest value is a centre.
        top_k: most centres kept; all of them where the map has fewer pixels.

    Returns:
        (H, W) int64 panoptic ids, -1 where void. The inputs are not changed.
    """
    with warnings.catch_warnings():
        # Detectron2 calls meshgrid the old way.
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        panoptic, _ = get_panoptic_segmentation(
            sem_seg.unsqueeze(0),
            center,
            offset,
            thing_ids=thing_ids,
            label_divisor=label_divisor,
            stuff_area=stuff_area,
            void_label=VOID,
            threshold=threshold,
            nms_kernel=nms_kernel,
            top_k=min(top_k, sem_seg.numel()),
        )
    return panoptic.squeeze(0)


def instances_from_panoptic(
    panoptic: Tensor,
    sem_seg: Tensor,
    center: Tensor,
    *,
    thing_ids: Collection[int],
    label_divisor: int,
) -> Instances:
    """Return the things of a panoptic map, ordered by panoptic id.

    Args:
        panoptic: (H, W) int64 of category id * label_divisor + instance number, -1 where void.
        sem_seg: (K, H, W) class logits.
        center: (1, H, W) heatmap of centres.
        thing_ids, label_divisor: as in `panoptic_segmentation`.

    Returns:
        `Instances` of size (H, W), M may be 0: pred_classes (M,) int64; pred_masks (M, H, W) bool;
        pred_boxes (x0, y0, x1, y1) in pixels, right and bottom exclusive; scores (M,): mean
        probability of the class in the mask times the heatmap at the mask's mean coordinate, cut to
        whole pixels (so not limited to 1).
    """
    height, width = panoptic.shape
    ids = [
        panoptic_id
        for panoptic_id in torch.unique(panoptic).tolist()
        if panoptic_id != VOID and panoptic_id // label_divisor in thing_ids
    ]
    classes = [panoptic_id // label_divisor for panoptic_id in ids]
    masks = torch.zeros((len(ids), height, width), dtype=torch.bool, device=panoptic.device)
    boxes = torch.zeros((len(ids), 4), device=panoptic.device)
    scores = torch.zeros(len(ids), device=panoptic.device)
    probabilities = sem_seg.softmax(dim=0) if ids else sem_seg
    for index, (panoptic_id, category) in enumerate(zip(ids, classes, strict=True)):
        mask = torch.eq(panoptic, panoptic_id, out=masks[index])
        pixels = torch.nonzero(mask)  # (pixels, 2), (y, x)
        (top, left), (bottom, right) = pixels.amin(dim=0), pixels.amax(dim=0) + 1
        boxes[index] = torch.stack((left, top, right, bottom))
        # One mean per column in float32, as in Detectron2: a rounding error decides which pixel
        # whole means fall on.
        coordinates = pixels.float()
        y, x = int(coordinates[:, 0].mean()), int(coordinates[:, 1].mean())
        scores[index] = probabilities[category][mask].mean() * center[0, y, x]
    return Instances(
        (height, width),
        pred_classes=torch.tensor(classes, dtype=torch.int64, device=panoptic.device),
        pred_masks=masks,
        pred_boxes=Boxes(boxes),
        scores=scores,
    )
