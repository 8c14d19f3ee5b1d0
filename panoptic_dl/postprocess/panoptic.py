"""From classes, centers and offsets to a panoptic map (Cheng et al., CVPR 2020, section 3.3).

Shapes: H W pixels, K centers, M peaks, C classes that occur or could, N thing pixels.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.projects.panoptic_deeplab import post_processing
from torch import Tensor

from panoptic_dl.postprocess.grouping import (
    Coroutine,
    coordinates,
    histogram,
    indices,
    member,
    nearest_centers,
    run_all,
)


def get_panoptic_segmentation(
    sem_seg: Tensor,
    center_heatmap: Tensor,
    offsets: Tensor,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
) -> tuple[Tensor, Tensor]:
    """Group thing pixels around centers, give each group its most frequent class, add stuff.

    Equals Detectron2's function of this name in every pixel and center, ties included, and leaves
    its inputs as they are. On a GPU it waits for the device twice, once more if there are `top_k`
    centers. Tables have a place for each id from the lowest to the highest category.

    Args:
        sem_seg: (1, H, W) integer category ids.
        center_heatmap: (1, H, W) heatmap of centers, about 0 to 1.
        offsets: (2, H, W) offsets (y, x) in pixels from a pixel to its center.
        thing_ids: category ids of things.
        label_divisor: panoptic id = category id * label_divisor + number, where things count from 1
            in each category, in the order of their centers, and stuff has 0.
        stuff_area: stuff with fewer pixels becomes void.
        void_label: panoptic id of pixels that are neither.
        threshold: centers have a larger heatmap value.
        nms_kernel: side in pixels (odd) of the window in which only the largest value is a center.
        top_k: only centers above the `top_k`-th largest value count; None, or more than there are
            centers: all.

    Half precision gives what the same values give in single precision.

    Returns:
        panoptic ids (1, H, W) of the type of `sem_seg`; centers (1, K, 2) int64, (y, x) in pixels,
        row by row.

    Raises:
        ValueError: ids do not fit into the type of `sem_seg`.
    """
    maps = sem_seg, center_heatmap, offsets
    ids = label_divisor, stuff_area, void_label
    return run_all([_segment(*maps, thing_ids, *ids, threshold, nms_kernel, top_k)])[0]


def get_panoptic_segmentations(
    sem_segs: Sequence[Tensor] | Tensor,
    center_heatmaps: Sequence[Tensor] | Tensor,
    offsets: Sequence[Tensor] | Tensor,
    **arguments: Any,
) -> list[tuple[Tensor, Tensor]]:
    """`get_panoptic_segmentation` of several images, which may differ in size.

    On a GPU it waits for the device as often as for a single image.

    Args:
        sem_segs, center_heatmaps, offsets: sequences of what that function takes, or batches with a
            leading dimension.
        arguments: its others, by name.
    """
    maps = zip(sem_segs, center_heatmaps, offsets, strict=True)
    return run_all([_segment(*of_image, **arguments) for of_image in maps])


def _segment(
    sem_seg: Tensor,
    heatmap: Tensor,
    offset: Tensor,
    thing_ids: Collection[int],
    label_divisor: int,
    stuff_area: int,
    void_label: int,
    threshold: float = 0.1,
    nms_kernel: int = 7,
    top_k: int | None = 200,
) -> Coroutine[tuple[Tensor, Tensor]]:
    """Segment one image; a coroutine, see `grouping`."""
    things = frozenset(int(category) for category in thing_ids)
    height, width = sem_seg.shape[1:]
    heatmap = heatmap[0]
    if heatmap.dtype not in (torch.float32, torch.float64):
        heatmap = heatmap.float()
    if offset.dtype not in (torch.float32, torch.float64):
        offset = offset.float()
    labels = sem_seg.reshape(-1).long()
    is_thing = member(labels, things)
    peaks = find_peaks(heatmap, threshold, nms_kernel).flatten()
    num_peaks, num_pixels, lowest, highest = yield torch.stack(
        (peaks.sum(), is_thing.sum(), *labels.aminmax())
    )
    limits, smallest = torch.iinfo(sem_seg.dtype), lowest * label_divisor
    largest = highest * label_divisor + num_peaks
    if smallest < limits.min or largest > limits.max:
        raise ValueError(
            f"panoptic ids from {smallest} to {largest} do not fit into {sem_seg.dtype}: pass "
            "sem_seg as int64"
        )

    places = indices(peaks, num_peaks)
    if top_k is not None and num_peaks >= top_k:
        # The comparison is exclusive, as in Detectron2: fewer than `top_k` remain, and of equal
        # scores that straddle the limit none.
        scores = heatmap.reshape(-1).index_select(0, places)
        keep = scores > scores.topk(top_k).values[-1]
        (num_kept,) = yield keep.sum().view(1)
        places = places.index_select(0, indices(keep, num_kept))
    centers = coordinates(places, width)

    ids = torch.arange(lowest, highest + 1, device=labels.device)
    slots = labels - lowest if lowest else labels
    areas = histogram(slots, len(ids))
    if len(centers):
        pixels = indices(is_thing, num_pixels)
        points = coordinates(pixels, width).T + offset.flatten(1).index_select(1, pixels)
        groups = yield from nearest_centers(points, centers, (height, width))
        votes = histogram(
            groups * len(ids) + slots.index_select(0, pixels), len(centers) * len(ids)
        ).view(len(centers), len(ids))
        areas = areas - votes.sum(dim=0)
    stuff = ~member(ids, things) & (areas >= stuff_area)
    panoptic = torch.where(stuff, ids * label_divisor, void_label).index_select(0, slots)
    if len(centers):
        values = _number_groups(votes, ids, label_divisor)
        panoptic.scatter_(0, pixels, values.index_select(0, groups))
    panoptic = panoptic.view(1, height, width).to(sem_seg.dtype)
    return panoptic, centers.unsqueeze(0)


def find_peaks(heatmap: Tensor, threshold: float, nms_kernel: int) -> Tensor:
    """Where a center of a heatmap (H, W) may be: (H, W) bool.

    A peak is above `threshold`, above 0, and the largest value of the window around it, whose side
    is `nms_kernel` pixels, odd. A plateau has as many peaks as pixels, windows with a NaN none.
    """
    largest = _window_max(_window_max(heatmap, nms_kernel, dim=0), nms_kernel, dim=1)
    return (heatmap == largest) & (heatmap > threshold) & (heatmap > 0)


def _window_max(values: Tensor, size: int, dim: int) -> Tensor:
    """Maximum over `size` values around each one along `dim` of (H, W), in log2(size) passes."""
    margin = [0, 0, 0, 0]  # left, right, top, bottom
    margin[2 - 2 * dim] = margin[3 - 2 * dim] = size // 2
    values = F.pad(values, margin, value=float("-inf"))
    width = 1  # each value is the maximum of `width` original ones, from its own place on
    while width < size:
        step = min(width, size - width)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        width += step
    return values


def _number_groups(votes: Tensor, ids: Tensor, label_divisor: int) -> Tensor:
    """Panoptic id of each center's pixels, (K,), from their votes for classes, (K, C).

    The class with most votes, of equal ones the smallest, as `torch.mode` has it; numbers count the
    groups of a class that have pixels.
    """
    majority = votes.argmax(dim=1, keepdim=True)
    members = torch.zeros_like(votes).scatter_(
        1, majority, (votes.amax(dim=1, keepdim=True) > 0).long()
    )
    number = members.cumsum(dim=0).gather(1, majority)
    return (ids.index_select(0, majority.squeeze(1)) * label_divisor).add_(number.squeeze(1))


def detectron2_segmentations(
    sem_segs: Sequence[Tensor],
    center_heatmaps: Sequence[Tensor],
    offsets: Sequence[Tensor],
    **arguments: Any,
) -> list[tuple[Tensor, Tensor]]:
    """Detectron2's own function, image after image: what benchmarks compare with."""
    with warnings.catch_warnings():
        # It calls meshgrid the old way.
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        return [
            post_processing.get_panoptic_segmentation(*maps, **arguments)
            for maps in zip(sem_segs, center_heatmaps, offsets, strict=True)
        ]
