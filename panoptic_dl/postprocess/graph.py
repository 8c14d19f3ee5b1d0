"""Post-processing as one graph of tensors, for files that other programs run.

It computes what `get_panoptic_segmentation` and `instances_from_panoptic` compute, but asks the
host for no numbers, so that `torch.export` can follow it and each step is a standard operator of
ONNX. Panoptic ids are equal to the last tie wherever the maps are: distances are rounded as
Detectron2 rounds them.

Shapes: N images, K classes, H W pixels, R `top_k` places for centers, P thing pixels of images with
centers, in the whole batch.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop


class Segmentation(NamedTuple):
    """The panoptic maps of a batch, and its things."""

    panoptic: Tensor  # (N, H, W) int64: category * label_divisor + instance, -1 where void
    semantic: Tensor  # (N, H, W) int64: class of the largest logit
    thing_ids: Tensor  # (N, R) int64: panoptic ids of the things by rising id, then -1
    scores: Tensor  # (N, R) float32 of the things, then 0


def segment(
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
) -> Segmentation:
    """Group the thing pixels of a batch around its centers, add stuff, and score the things.

    Args:
        sem_seg: (N, K, H, W) float32 class logits.
        center: (N, 1, H, W) float32 heatmap of centers.
        offset: (N, 2, H, W) float32 offsets (y, x) in pixels.
        thing_ids, label_divisor, stuff_area, threshold, nms_kernel, top_k: see
            `get_panoptic_segmentation`.
    """
    num_images, num_classes, height, width = sem_seg.shape
    area = height * width
    semantic = sem_seg.argmax(dim=1)
    labels = semantic.flatten()
    classes = torch.arange(num_classes)
    is_thing_class = torch.tensor([each in thing_ids for each in range(num_classes)])

    centers, num_centers = _find_centers(center[:, 0], threshold, nms_kernel, top_k)
    in_group = is_thing_class[semantic].flatten(1) & (num_centers > 0).unsqueeze(1)
    pixels = in_group.flatten().nonzero().squeeze(1)  # (P,), numbered through the batch
    image, place = _divide(pixels, area)
    row, column = _divide(place, width)
    y = row + offset[:, 0].flatten()[pixels]
    x = column + offset[:, 1].flatten()[pixels]
    group = image * top_k + _nearest_centers(y, x, image, centers, num_centers.max())

    ones = torch.ones_like(pixels)
    votes = torch.zeros(num_images * top_k * num_classes, dtype=torch.int64)
    votes = votes.scatter_add(0, group * num_classes + labels[pixels], ones)
    votes = votes.view(num_images, top_k, num_classes)
    majority = votes.argmax(dim=2)  # (N, R), of equal numbers the smallest class
    exists = votes.amax(dim=2) > 0
    members = F.one_hot(majority, num_classes) * exists.unsqueeze(2)
    number = members.cumsum(dim=1).gather(2, majority.unsqueeze(2)).squeeze(2)
    ids = majority * label_divisor + number  # (N, R)

    slots = torch.arange(num_images).unsqueeze(1) * num_classes + semantic.flatten(1)  # (N, H * W)
    slots = slots.flatten()
    areas = torch.zeros(num_images * num_classes, dtype=torch.int64)
    areas = areas.scatter_add(0, slots, torch.ones_like(slots)).view(num_images, num_classes)
    is_stuff = ~is_thing_class & (areas >= stuff_area)
    panoptic = torch.where(is_stuff, classes * label_divisor, -1).flatten()[slots]
    panoptic = panoptic.scatter(0, pixels, ids.flatten()[group]).view(semantic.shape)

    logits = sem_seg.transpose(0, 1).flatten(1)[:, pixels]  # (K, P)
    wanted = majority.flatten()[group].unsqueeze(0)
    probability = logits.softmax(dim=0).gather(0, wanted).squeeze(0).double()
    sums = torch.zeros(num_images * top_k, dtype=torch.int64)
    count = sums.scatter_add(0, group, ones).clamp(min=1)
    total = sums.double().scatter_add(0, group, probability)
    mean_row = sums.scatter_add(0, group, row) // count
    mean_column = sums.scatter_add(0, group, column) // count
    middle = (mean_row * width + mean_column).view(num_images, top_k)
    scores = (total / count).float().view(num_images, top_k) * center.flatten(1).gather(1, middle)

    beyond = num_classes * label_divisor
    ordered, order = torch.where(exists, ids, beyond).sort(dim=1)
    last = ordered == beyond
    return Segmentation(
        panoptic,
        semantic,
        ordered.masked_fill(last, -1),
        scores.gather(1, order).masked_fill(last, 0),
    )


def _find_centers(
    heatmap: Tensor, threshold: float, nms_kernel: int, top_k: int
) -> tuple[Tensor, Tensor]:
    """The centers of (N, H, W) heatmaps, as `find_peaks` and `top_k` choose them.

    Returns (N, R, 2) float32 (y, x), row by row, infinite beyond the last center, and (N,) counts.
    """
    height, width = heatmap.shape[1:]
    area = height * width
    largest = F.max_pool2d(heatmap, nms_kernel, stride=1, padding=nms_kernel // 2)
    peak = (heatmap == largest) & (heatmap > threshold) & (heatmap > 0)
    values = torch.where(peak, heatmap, -torch.inf).flatten(1)
    values = F.pad(values, (0, top_k), value=-torch.inf)  # of images smaller than `top_k` pixels
    best, places = values.topk(top_k, dim=1)
    chosen = best > best[:, -1:]
    places = torch.where(chosen, places, area).sort(dim=1).values
    centers = torch.stack(_divide(places, width), dim=2).float()
    return centers.masked_fill((places == area).unsqueeze(2), torch.inf), chosen.sum(dim=1)


def _nearest_centers(y: Tensor, x: Tensor, image: Tensor, centers: Tensor, most: Tensor) -> Tensor:
    """Number of the nearest center in its image of each point, (P,) int64; of equals the first.

    One center after the other, because a table of all distances would take gigabytes.

    Args:
        y, x: (P,) float32.
        image: (P,) number of the image.
        centers: (N, R, 2), infinite where an image has fewer.
        most: centers of the image that has most.
    """

    def more(rank: Tensor, *_: Tensor) -> Tensor:
        return rank < most

    def compare(rank: Tensor, best: Tensor, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        of_image = centers.index_select(1, rank.view(1)).squeeze(1)[image]  # (P, 2)
        dy, dx = of_image[:, 0] - y, of_image[:, 1] - x
        distance = (dy * dy + dx * dx).sqrt()
        nearer = distance < best
        return (
            rank + 1,
            torch.where(nearer, distance, best),
            torch.where(nearer, rank, nearest),
        )

    start = (torch.zeros((), dtype=torch.int64), torch.full_like(y, torch.inf), image * 0)
    return while_loop(more, compare, start)[2]


def _divide(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder, whose own operator ONNX does not take with a size of the graph."""
    quotient = places // size
    return quotient, places - quotient * size
