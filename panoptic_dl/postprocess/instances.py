"""The things of a panoptic map as Detectron2 `Instances`, with scores.

What is asked of pixels is asked of runs where it can be: the pixels of one id side by side in a
row, a hundred times fewer.

Shapes: K classes, H W pixels, R runs, I ids, M instances.
"""

import itertools
from collections.abc import Collection

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from panoptic_dl.postprocess.grouping import indices, member
from panoptic_dl.postprocess.semantic import ARRAYS, in_strips, waits

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
        rounded pixels (so not limited to 1); panoptic_ids (M,): `panoptic` has them where the mask
        is true.
    """
    height, width = panoptic.shape
    begins = torch.ones((height, width), dtype=torch.bool, device=panoptic.device)

    def compare(rows: slice) -> None:
        begins[rows, 1:] = panoptic[rows, 1:] != panoptic[rows, :-1]

    in_strips(compare, height, ARRAYS * width, panoptic.device)
    starts = _nonzero(begins.flatten())  # (R,)
    lengths = starts.diff(append=starts.new_full((1,), height * width))
    labels = panoptic.reshape(-1).index_select(0, starts)
    ids, owner = torch.unique(labels, return_inverse=True)  # (I,), (R,)
    categories = ids // label_divisor
    is_thing = member(categories, frozenset(int(category) for category in thing_ids))

    y, x = starts // width, starts % width
    areas = torch.zeros_like(ids).index_add_(0, owner, lengths)
    sums = torch.stack((y * lengths, (2 * x + lengths - 1) * lengths // 2), dim=1)
    sums = ids.new_zeros((len(ids), 2)).index_add_(0, owner, sums)
    boxes = ids.new_zeros((len(ids), 4))
    for column, (values, reduce) in enumerate(
        ((x, "amin"), (y, "amin"), (x + lengths, "amax"), (y + 1, "amax"))
    ):
        boxes[:, column].scatter_reduce_(0, owner, values, reduce, include_self=False)
    places, is_odd = _mean_places(sums, areas)
    things, odd = torch.stack((is_thing, is_odd)).tolist()

    owner = owner.int().repeat_interleave(lengths, output_size=height * width).view(height, width)
    total = _sum_probabilities(sem_seg, owner, torch.where(is_thing, categories, -1))
    probability = (total / areas).to(sem_seg.dtype)
    chosen = indices(is_thing, sum(things))
    ids, categories, boxes, places, probability = (
        values.index_select(0, chosen) for values in (ids, categories, boxes, places, probability)
    )
    masks = _masks(panoptic, ids, boxes)
    for number, asked in enumerate(itertools.compress(odd, things)):
        if asked:
            inside = masks[number].nonzero().float()
            places[number, 0], places[number, 1] = inside[:, 0].mean(), inside[:, 1].mean()
    return Instances(
        (height, width),
        pred_classes=categories,
        pred_masks=masks,
        pred_boxes=Boxes(boxes.float()),
        scores=probability * center[0, places[:, 0], places[:, 1]],
        panoptic_ids=ids,
    )


def _nonzero(mask: Tensor) -> Tensor:
    return mask.nonzero().flatten() if waits(mask) else indices(mask, 0)


def _sum_probabilities(logits: Tensor, owner: Tensor, wanted: Tensor) -> Tensor:
    """Sum the probability of one class over the pixels of each id: (I,) float64.

    Args:
        logits: (K, H, W).
        owner: (H, W) int32, the number 0..I-1 of each pixel's id.
        wanted: (I,) int64, the class whose probability is asked; where it is -1, the sum means
            nothing.
    """

    def add_up(rows: slice) -> Tensor:
        total = torch.zeros(len(wanted), dtype=torch.float64, device=logits.device)
        own, columns = owner[rows], slice(0, owner.shape[1])
        if not waits(logits):
            there = np.flatnonzero((wanted.numpy()[own.numpy()] >= 0).any(axis=0))
            if not len(there):
                return total
            columns = slice(int(there[0]), int(there[-1]) + 1)
        own, part = own[:, columns].flatten(), logits[:, rows, columns]
        category = wanted.index_select(0, own).clamp_(min=0).view(1, *part.shape[1:])
        mine = part.gather(0, category)
        # 1 / sum(exp(logit - own logit)) is the softmax.
        probability = _exp_(part - mine).sum(dim=0).reciprocal_()
        probability.masked_fill_(mine[0] == -torch.inf, 0)
        return total.index_add_(0, own, probability.flatten().double())

    num_classes, height, width = logits.shape
    return torch.stack(in_strips(add_up, height, num_classes * width, logits.device)).sum(dim=0)


def _exp_(values: Tensor) -> Tensor:
    """The exponential, maybe in place; in single precision on a CPU by OpenCV, which is faster."""
    if values.is_cuda or values.dtype != torch.float32:
        return values.exp_()
    values = values.contiguous()  # logits of weights that are channels last are so, too
    flat = values.view(len(values), -1).numpy()
    cv2.exp(flat, flat)
    return values


def _masks(panoptic: Tensor, ids: Tensor, boxes: Tensor) -> Tensor:
    """Where each of `ids` (M,) is, within `boxes` (M, 4): (M, H, W) bool."""
    if waits(panoptic):
        return panoptic == ids.view(-1, 1, 1)
    # Zeros of NumPy take memory when they are written to: most of these pages never are.
    masks = torch.from_numpy(np.zeros((len(ids), *panoptic.shape), dtype=np.bool_))

    def fill(part: slice) -> None:
        own = zip(masks[part], ids[part].tolist(), boxes[part].tolist(), strict=True)
        for mask, number, (left, top, right, bottom) in own:
            box = slice(top, bottom), slice(left, right)
            mask[box] = panoptic[box] == number

    in_strips(fill, len(ids), panoptic.numel(), panoptic.device)
    return masks


def _mean_places(sums: Tensor, areas: Tensor) -> tuple[Tensor, Tensor]:
    """Mean coordinate of each id, cut to whole pixels, (I, 2) int64 (y, x), and (I,) if it is odd.

    Detectron2 takes the mean in single precision. Where the exact mean is a whole number, or all
    but, and the sum is too large to be exact there, its rounding decides the pixel: those few,
    which are odd here, have to be computed as Detectron2 does.
    """
    areas = areas.unsqueeze(1)
    means = sums.double() / areas
    # PyTorch divides on the CPU; on a GPU it multiplies with the reciprocal.
    single = sums.float() * (1 / areas.float()) if sums.is_cuda else sums.float() / areas.float()
    close = (means - means.round()).abs() <= 4e-6 * means
    return single.long(), (close & (sums > EXACT)).any(dim=1)
