"""Small operations on maps of whole numbers that never make the host wait for a GPU."""

from functools import lru_cache

import torch
from torch import Tensor

# Numbers that span more than this are looked up and counted by sorting instead of a table.
WIDEST_TABLE = 4096


def member(values: Tensor, members: frozenset[int]) -> Tensor:
    """Whether each of (n,) int64 values is one of `members`: (n,) bool."""
    if not members:
        return torch.zeros_like(values, dtype=torch.bool)
    before, after = min(members) - 1, max(members) + 1
    if after - before > WIDEST_TABLE:
        return torch.isin(values, _on_device(tuple(sorted(members)), values.device))
    table = _on_device(tuple(i in members for i in range(before, after + 1)), values.device)
    return table.index_select(0, values.clamp(before, after).sub_(before))


@lru_cache(maxsize=64)
def _on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor that is copied to a GPU, and waited for, once."""
    return torch.tensor(values, device=device)


def count_from_zero(labels: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """(n,) int64 labels as places in a list of ids, (n,), and that list, (C,), ascending.

    Args:
        lowest, highest: of the labels. Ids between them that do not occur may be in the list.
    """
    if highest - lowest > WIDEST_TABLE:
        ids, places = torch.unique(labels, return_inverse=True)
        return places, ids
    ids = torch.arange(lowest, highest + 1, device=labels.device)
    return (labels - lowest if lowest else labels), ids


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
