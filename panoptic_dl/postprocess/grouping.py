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

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.postprocess.semantic import in_strips, waits

Result = TypeVar("Result")
# Yields tensors (n,) int64 on the device, receives their values, returns a result.
Coroutine = Generator[Tensor, list[int], Result]

CELL = 8  # pixels
# Entries of a table of distances that are computed at once: a CPU's cache, or what fills a GPU.
TABLE = {"cpu": 1 << 18, "cuda": 1 << 21}


def nearest_centers(
    offset: Tensor, top: int, wanted: Tensor, centers: Tensor, cells: Tensor
) -> Coroutine[Tensor]:
    """Number of the nearest center of wanted pixels, (H, W) int32; of equally near ones the first.

    Args:
        offset: (2, H, W) float32 or float64 (y, x) in pixels, to be added to a pixel's place. Where
            that leads may lie outside the image and need not be finite.
        top: row of the image where these rows begin.
        wanted: (H, W) bool; the result means nothing elsewhere.
        centers: (K, 2) int64, (y, x) in pixels, K at least 1.
        cells: of `nearest_of_cells`.

    A coroutine: yields one number that it needs on the host.
    """
    height, width = wanted.shape
    y = offset[0] + torch.arange(top, top + height, device=offset.device).unsqueeze(1)
    x = offset[1] + torch.arange(width, device=offset.device)
    cell = _cell(y, cells.shape[0]).mul_(cells.shape[1]).add_(_cell(x, cells.shape[1]))
    nearest = cells.flatten().index_select(0, cell.flatten())
    unsure = (nearest == len(centers)).logical_and_(wanted.flatten())
    (num_unsure,) = yield count(unsure)
    if num_unsure:
        rest = indices(unsure, num_unsure)
        points = torch.stack((y.flatten().index_select(0, rest), x.flatten().index_select(0, rest)))
        finite = points.isfinite().all(dim=0)
        found = _nearest_by_distance(points.masked_fill_(~finite, 0), centers)
        # Else all centers are equally far, at infinity or NaN: the first counts.
        nearest[rest] = found.mul_(finite).int()
    return nearest.view(height, width)


def _cell(place: Tensor, num_cells: int) -> Tensor:
    """Number of the cell of each coordinate, int32; 0 and the last are outside of the image."""
    return place.add(CELL).mul_(1 / CELL).clamp_(0, num_cells - 1).nan_to_num_(0).int()


def nearest_of_cells(centers: Tensor, size: tuple[int, int]) -> Tensor:
    """The center that is nearest in the whole cell, (rows + 2, columns + 2) int32; K where none is.

    The first and last row and column are outside of the image. A single center is the nearest of
    everything.
    """
    num, device = len(centers), centers.device
    rows, columns = (-(-length // CELL) for length in size)
    cells = torch.full((rows + 2, columns + 2), int(num > 1), dtype=torch.int32, device=device)
    if num == 1:
        return cells
    cells.fill_(num)
    middles = (torch.arange(n, device=device) * CELL + CELL // 2 for n in (rows, columns))
    # Squared distances, whole numbers, with the number of the center as the last digit.
    dy, dx = (
        (middle - of_all.unsqueeze(1)).double().square_().mul_(num)
        for middle, of_all in zip(middles, centers.unbind(1), strict=True)
    )
    dy += torch.arange(num, device=device).unsqueeze(1)

    def fill(part: slice) -> None:
        digits = dy[:, part, None] + dx[:, None, :]  # (K, rows, columns)
        first = digits.amin(dim=0)
        second = digits.masked_fill_(digits == first, torch.inf).amin(dim=0)
        number = first.remainder(num)
        ahead = (second / num).sqrt_() - ((first - number) / num).sqrt_()
        # A point is at most half a diagonal from the middle, which can bring the second that much
        # nearer and take the first that much farther; 0.1 pixels are more than rounding costs.
        number.masked_fill_(ahead <= CELL * 2**0.5 + 0.1, num)
        cells[part.start + 1 : part.stop + 1, 1:-1] = number

    in_strips(fill, rows, 4 * num * columns, device)
    return cells


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
    if waits(points):  # all of these few points: to ask whether there are ties would wait
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


def count(mask: Tensor) -> Tensor:
    """The number of true values of a mask: (1,) int64."""
    if waits(mask):
        return mask.sum().view(1)
    return torch.tensor([np.count_nonzero(mask.numpy())])


def indices(mask: Tensor, number: int) -> Tensor:
    """The places of the `number` true values of a mask (n,), ascending: (number,) int64."""
    if waits(mask):
        return torch.nonzero_static(mask, size=number).flatten()
    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def coordinates(places: Tensor, width: int) -> Tensor:
    """(n, 2) (y, x) of pixels (n,) that are numbered row by row."""
    return torch.stack((places // width, places % width), dim=1)
