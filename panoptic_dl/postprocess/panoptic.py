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
    count,
    histogram,
    indices,
    member,
    nearest_centers,
    nearest_of_cells,
    run_all,
)
from panoptic_dl.postprocess.semantic import ARRAYS, in_strips, waits


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
    labels, device = sem_seg[0], sem_seg.device
    peaks = torch.empty((height, width), dtype=torch.bool, device=device)

    def survey(rows: slice) -> Tensor:
        peaks[rows] = find_peaks(heatmap, threshold, nms_kernel, rows)
        return torch.stack(labels[rows].aminmax())

    limits = torch.stack(in_strips(survey, height, ARRAYS * width, device)).long()
    num_peaks, lowest, highest = yield torch.cat(
        (count(peaks), limits[:, :1].amin(dim=0), limits[:, 1:].amax(dim=0))
    )
    type_limits, smallest = torch.iinfo(sem_seg.dtype), lowest * label_divisor
    largest = highest * label_divisor + num_peaks
    if smallest < type_limits.min or largest > type_limits.max:
        raise ValueError(
            f"panoptic ids from {smallest} to {largest} do not fit into {sem_seg.dtype}: pass "
            "sem_seg as int64"
        )

    places = indices(peaks.flatten(), num_peaks)
    if top_k is not None and num_peaks >= top_k:
        # The comparison is exclusive, as in Detectron2: fewer than `top_k` remain, and of equal
        # scores that straddle the limit none.
        scores = heatmap.reshape(-1).index_select(0, places)
        keep = scores > scores.topk(top_k).values[-1]
        (num_kept,) = yield count(keep)
        places = places.index_select(0, indices(keep, num_kept))
    centers = coordinates(places, width)

    # Of each pixel one code: its class, and its center, or K for those that have none.
    ids = torch.arange(lowest, highest + 1, device=device)
    is_thing, num_centers, num_classes = member(ids, things), len(centers), len(ids)
    cells = nearest_of_cells(centers, (height, width)) if num_centers else None
    codes = torch.empty((height, width), dtype=torch.int32, device=device)

    def assign(rows: slice) -> Coroutine[None]:
        codes[rows] = labels[rows] - lowest
        if cells is not None:
            wanted = is_thing.index_select(0, codes[rows].flatten()).view(-1, width)
            groups = yield from nearest_centers(offset[:, rows], rows.start, wanted, centers, cells)
            codes[rows] += groups.masked_fill_(~wanted, num_centers).mul_(num_classes)

    if waits(labels):
        yield from assign(slice(0, height))
    else:
        in_strips(lambda rows: run_all([assign(rows)]), height, ARRAYS * width, device)
    areas = histogram(codes.flatten(), (num_centers + 1) * num_classes)
    votes, areas = areas.view(num_centers + 1, num_classes).split((num_centers, 1))
    stuff = ~is_thing & (areas[0] >= stuff_area)
    values = torch.where(stuff, ids * label_divisor, void_label).unsqueeze(0)
    if num_centers:
        numbered = _number_groups(votes, ids, label_divisor).unsqueeze(1)
        values = torch.cat((numbered.expand(votes.shape), values))
    values = values.flatten().to(sem_seg.dtype)
    panoptic = torch.empty((1, height, width), dtype=sem_seg.dtype, device=device)

    def look_up(rows: slice) -> None:
        panoptic[0, rows] = values.index_select(0, codes[rows].flatten()).view(-1, width)

    in_strips(look_up, height, ARRAYS * width, device)
    return panoptic, centers.unsqueeze(0)


def find_peaks(
    heatmap: Tensor, threshold: float, nms_kernel: int, rows: slice | None = None
) -> Tensor:
    """Where a center of a heatmap (H, W) may be: (H, W) bool, or these rows of it.

    A peak is above `threshold`, above 0, and the largest value of the window around it, whose side
    is `nms_kernel` pixels, odd. A plateau has as many peaks as pixels, windows with a NaN none.
    """
    rows = rows or slice(0, len(heatmap))
    values = heatmap[rows]
    above = (values > threshold).logical_and_(values > 0)
    if not waits(heatmap) and not above.numpy().any():
        return above
    first = max(rows.start - nms_kernel // 2, 0)
    largest = _window_max(heatmap[first : rows.stop + nms_kernel // 2], nms_kernel, dim=0)
    largest = _window_max(largest[rows.start - first :][: len(values)], nms_kernel, dim=1)
    return above.logical_and_(values == largest)


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
