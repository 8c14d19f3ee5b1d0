"""The things of a panoptic map as Detectron2 `Instances`, with scores.

Shapes: K classes, H W pixels, M instances, N thing pixels.
"""

from collections.abc import Collection

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from panoptic_dl.postprocess.grouping import coordinates, member

SHARE = 1 << 16  # pixels whose class probabilities are computed at once
# Whole numbers up to here, and so sums of coordinates, are exact in single precision.
EXACT = 1 << 24


def instances_from_panoptic(
    panoptic: Tensor,
    sem_seg: Tensor,
    center: Tensor,
    *,
    thing_ids: Collection[int],
    label_divisor: int,
) -> Instances:
    """Return the things of a panoptic map, ordered by panoptic id.

    Equals what Detectron2's `PanopticDeepLab` computes instance by instance; scores may differ in
    the last digits, because means are taken in double precision here.

    Args:
        panoptic: (H, W) int64 of category id * label_divisor + instance number, negative where
            void.
        sem_seg: (K, H, W) class logits.
        center: (1, H, W) heatmap of centers.
        thing_ids, label_divisor: as in `get_panoptic_segmentation`.

    Returns:
        `Instances` of size (H, W), M may be 0: pred_classes (M,) int64; pred_masks (M, H, W) bool;
        pred_boxes (x0, y0, x1, y1) in pixels, right and bottom exclusive; scores (M,): mean
        probability of the class in the mask times the heatmap at the mask's mean coordinate, cut to
        rounded pixels (so not limited to 1).
    """
    height, width = panoptic.shape
    labels = panoptic.reshape(-1)
    things = frozenset(int(category) for category in thing_ids)
    pixels = member(labels // label_divisor, things).nonzero().flatten()
    ids, owner = torch.unique(labels.index_select(0, pixels), return_inverse=True)
    classes = ids // label_divisor
    num, device = len(ids), panoptic.device

    masks = torch.zeros((num, height * width), dtype=torch.bool, device=device)
    masks.view(-1)[owner * (height * width) + pixels] = True
    masks = masks.view(num, height, width)
    places = coordinates(pixels, width)  # (N, 2), (y, x)
    index = owner.unsqueeze(1).expand(-1, 2)
    first = places.new_zeros((num, 2)).scatter_reduce_(0, index, places, "amin", include_self=False)
    last = places.new_zeros((num, 2)).scatter_reduce_(0, index, places, "amax", include_self=False)
    areas = torch.zeros_like(ids).index_add_(0, owner, torch.ones_like(owner))
    boxes = torch.cat((first.flip(1), last.flip(1) + 1), dim=1).float()

    probability = _mean_probability(sem_seg, places, owner, classes, areas)
    y, x = _mean_place(places, owner, areas, masks).unbind(1)
    return Instances(
        (height, width),
        pred_classes=classes,
        pred_masks=masks,
        pred_boxes=Boxes(boxes),
        scores=probability * center[0, y, x],
    )


def _mean_probability(
    logits: Tensor, places: Tensor, owner: Tensor, classes: Tensor, areas: Tensor
) -> Tensor:
    """Mean over each instance of the probability of its class: (M,) of the type of the logits."""
    total = torch.zeros(len(areas), dtype=torch.float64, device=logits.device)
    wanted = classes.index_select(0, owner)
    parts = (values.split(SHARE) for values in (places, owner, wanted))
    for place, instance, category in zip(*parts, strict=True):
        probabilities = logits[:, place[:, 0], place[:, 1]].softmax(dim=0)  # (K, n)
        own = probabilities.gather(0, category.unsqueeze(0)).squeeze(0)
        total.index_add_(0, instance, own.double())
    return (total / areas).to(logits.dtype)


def _mean_place(places: Tensor, owner: Tensor, areas: Tensor, masks: Tensor) -> Tensor:
    """Mean coordinate of each instance, cut to whole pixels: (M, 2) int64, (y, x).

    Detectron2 takes the mean in single precision. Where the exact mean is a whole number, or all
    but, and the sum is too large to be exact there, its rounding decides the pixel: those few
    instances are computed as Detectron2 does.
    """
    sums = places.new_zeros((len(areas), 2)).index_add_(0, owner, places)
    areas = areas.unsqueeze(1)
    means = sums.double() / areas
    # PyTorch divides on the CPU; on a GPU it multiplies with the reciprocal.
    single = sums.float() * (1 / areas.float()) if sums.is_cuda else sums.float() / areas.float()
    pixels = single.long()
    close = (means - means.round()).abs() <= 4e-6 * means
    for instance in (close & (sums > EXACT)).any(dim=1).nonzero().flatten().tolist():
        inside = masks[instance].nonzero().float()
        pixels[instance, 0], pixels[instance, 1] = inside[:, 0].mean(), inside[:, 1].mean()
    return pixels
