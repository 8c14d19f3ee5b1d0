"""What the processes of a run tell each other in a step: all figures in one collective."""

from collections.abc import Mapping

import torch
from detectron2.utils import comm
from torch import Tensor, distributed


def gather_figures(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> list[dict[str, float]]:
    """Return every process's figures, in the order of their ranks; the same list in each process.

    Args:
        tensors: scalars, detached, on the device that the processes communicate with.
        numbers: figures of the host. Names and their order are the same in all processes.
    """
    device = next(iter(tensors.values())).device
    own = torch.cat(
        [
            torch.stack([value.double() for value in tensors.values()]),
            torch.tensor(list(numbers.values()), dtype=torch.float64).to(device),
        ]
    )
    rows = [own]
    if comm.get_world_size() > 1:
        rows = [torch.empty_like(own) for _ in range(comm.get_world_size())]
        distributed.all_gather(rows, own)
    names = [*tensors, *numbers]
    return [dict(zip(names, row, strict=True)) for row in torch.stack(rows).tolist()]


def mean(rows: list[dict[str, float]], name: str) -> float:
    """The mean of a figure over the processes."""
    return sum(row[name] for row in rows) / len(rows)
