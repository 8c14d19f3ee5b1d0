"""The nearest center of every pixel, equal to Detectron2's to the last tie, without its table.

Detectron2 makes a table of all distances, centers by pixels, in single precision, and takes the
first smallest entry of each column; rounding makes ties of distances that differ, and the order of
its additions decides them. Here nearly all pixels are settled by bounds that no rounding can cross:

1. The image is cut into cells. Where one center is nearer to a cell's middle than any other by more
   than the cell is wide, it is the nearest for everything in the cell.
2. Other points get their distances in double precision. If the best is ahead of the rest by more
   than single precision could lose, it is the nearest.
3. What is left is a tie, or almost: Detectron2's own arithmetic, on these points alone, decides.

Reading a number off a GPU stops the host until all work before it is done. Functions that need
such numbers are therefore coroutines: they yield a small tensor of them and receive its values.
`run_all` runs those of a whole batch in turns, so that a batch waits as often as a single image.

Shapes: K centers, N points, H W pixels.
"""

from collections.abc import Generator, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
# Yields tensors (n,) int64 on the device, receives their values, returns a result.
Coroutine = Generator[Tensor, list[int], Result]

CELL = 8  # pixels
# Entries of a table of distances that are computed at once: a CPU's cache, or what fills a GPU.
TABLE = {"cpu": 1 << 18, "cuda": 1 << 21}


def nearest_centers(points: Tensor, centers: Tensor, size: tuple[int, int]) -> Coroutine[Tensor]:
    """Number of the nearest center of each point, (N,) int64; of equally near ones the first.

    Args:
        points: (2, N) float32 or float64, (y, x) in pixels: a pixel plus its offset. They may lie
            outside the image and need not be finite.
        centers: (K, 2) int64, (y, x) in pixels, K at least 1.
        size: (H, W) of the image.

    A coroutine: yields one number that it needs on the host.
    """
    if len(centers) == 1:
        return torch.zeros_like(points[0], dtype=torch.int64)
    inside, cell = _locate(points, size)
    table, sure = _nearest_of_cells(centers, size)
    nearest = table.index_select(0, cell)
    unsure = sure.index_select(0, cell).logical_and_(inside).logical_not_()
    # All centers are equally far, at infinity or NaN: the first counts.
    finite = points.isfinite().all(dim=0)
    nearest.mul_(finite)
    unsure.logical_and_(finite)
    (num_unsure,) = yield unsure.sum().view(1)
    if num_unsure:
        rest = indices(unsure, num_unsure)
        nearest[rest] = _nearest_by_distance(points.index_select(1, rest), centers)
    return nearest


def _locate(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Whether each point is in the image, (N,) bool, and the number of its cell, (N,) int64."""
    height, width = size
    y, x = points
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    row, column = (points / CELL).nan_to_num_(0, 0, 0).long()
    row.clamp_(0, _cells(height) - 1)
    column.clamp_(0, _cells(width) - 1)
    return inside, row.mul_(_cells(width)).add_(column)


def _cells(length: int) -> int:
    return -(-length // CELL)


def _nearest_of_cells(centers: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """For each cell: the center nearest to its middle, and whether it is so in the whole cell."""
    rows, columns = _cells(size[0]), _cells(size[1])
    y, x = ((torch.arange(n, device=centers.device) + 0.5) * CELL for n in (rows, columns))
    dy, dx = y - centers[:, :1], x - centers[:, 1:]  # (K, rows), (K, columns)
    nearest, sure = [], []
    for part in _shares(rows, columns * len(centers), centers.device):
        distance = torch.hypot(dy[:, part, None], dx[:, None, :]).flatten(1)  # (K, cells)
        first, number = distance.min(dim=0)
        distance.scatter_(0, number.unsqueeze(0), float("inf"))
        # A point is at most half a diagonal from the middle, which can bring the second that much
        # nearer and take the first that much farther; 0.1 pixels are more than rounding costs.
        sure.append(distance.amin(dim=0) - first > CELL * 2**0.5 + 0.1)
        nearest.append(number)
    return torch.cat(nearest), torch.cat(sure)


def _nearest_by_distance(points: Tensor, centers: Tensor) -> Tensor:
    """The nearest center of each of (2, N) points, (N,) int64, by tables of all distances."""
    exact = points.double()
    y, x = centers.double().unsqueeze(2).unbind(1)  # (K, 1) each
    # Detectron2's rounding moves a squared distance by at most 6 half-units of the last place,
    # here doubled and more: both sides of a comparison, and our own rounding.
    tolerance = 16 * torch.finfo(points.dtype).eps
    nearest = torch.empty_like(points[0], dtype=torch.int64)
    for part in _shares(points.shape[1], len(centers), points.device):
        dy, dx = exact[0, part] - y, exact[1, part] - x
        square = dy.mul_(dy).add_(dx.mul_(dx))  # (K, N)
        best, number = square.min(dim=0)
        rivals = (square <= best * (1 + tolerance)).sum(dim=0)
        tie = rivals != 1  # many at infinity, where all are as far; none where the point is NaN
        nearest[part] = _settle_ties(points[:, part], centers, number, tie)
    return nearest


def _settle_ties(points: Tensor, centers: Tensor, nearest: Tensor, tie: Tensor) -> Tensor:
    """`nearest` (N,), with Detectron2's arithmetic where `tie` (N,) is true."""
    if points.is_cuda:  # all of these few points: to ask whether there are ties would wait
        return torch.where(tie, _nearest_by_reference(points, centers), nearest)
    if bool(tie.any()):
        nearest[tie] = _nearest_by_reference(points[:, tie], centers)
    return nearest


def _nearest_by_reference(points: Tensor, centers: Tensor) -> Tensor:
    """As `group_pixels` of Detectron2 does it, operation by operation: (N,) int64."""
    num = points.shape[1]
    if num == 1:  # a single column would be laid out, summed and so rounded in another way
        points = points.expand(2, 2).contiguous()
    location = points.T.unsqueeze(0)  # (1, N, 2)
    distance = torch.norm(centers.unsqueeze(1) - location, dim=-1)  # (K, N)
    return distance.argmin(dim=0)[:num]


def _shares(length: int, entries: int, device: torch.device) -> Iterator[slice]:
    """Cut `length` so that each part, times `entries`, is a table of moderate size."""
    step = max(1, TABLE.get(device.type, TABLE["cpu"]) // entries)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def run_all(coroutines: Sequence[Coroutine[Result]]) -> list[Result]:
    """Run coroutines to their ends and return their results.

    Each round copies the tensors of all that are still running to the host at once.
    """
    results: dict[int, Result] = {}
    answers: dict[int, list[int] | None] = dict.fromkeys(range(len(coroutines)))
    while answers:
        asked: dict[int, Tensor] = {}
        for number, answer in answers.items():
            try:
                # The first send must be None: it starts the coroutine.
                asked[number] = coroutines[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as stop:
                results[number] = stop.value
        values = iter(torch.cat(list(asked.values())).tolist() if asked else [])
        answers = {number: [next(values) for _ in tensor] for number, tensor in asked.items()}
    return [results[number] for number in range(len(coroutines))]


# Operations on maps of integers that never make the host wait for a GPU.


def member(values: Tensor, members: frozenset[int]) -> Tensor:
    """Whether each of (n,) int64 values is one of `members`: (n,) bool."""
    if not members:
        return torch.zeros_like(values, dtype=torch.bool)
    before, after = min(members) - 1, max(members) + 1
    table = _on_device(tuple(i in members for i in range(before, after + 1)), values.device)
    return table.index_select(0, values.clamp(before, after).sub_(before))


@lru_cache(maxsize=64)
def _on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor that is copied to a GPU, and waited for, once."""
    return torch.tensor(values, device=device)


def histogram(values: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 is among (n,) int64 values: (bins,) int64."""
    if values.is_cuda:  # bincount would wait for the device
        return torch.histc(values, bins=bins, min=0, max=bins).long()
    return torch.bincount(values, minlength=bins)


def indices(mask: Tensor, count: int) -> Tensor:
    """The places of the `count` true values of a mask (n,), ascending: (count,) int64."""
    return torch.nonzero_static(mask, size=count).flatten()


def coordinates(places: Tensor, width: int) -> Tensor:
    """(n, 2) (y, x) of pixels (n,) that are numbered row by row."""
    return torch.stack((places // width, places % width), dim=1)
