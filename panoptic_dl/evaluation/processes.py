"""What the processes that share a split tell each other: tensors, no pickled objects."""

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor, distributed


def sum_over_processes(*counts: np.ndarray) -> list[np.ndarray]:
    """Sum int64 arrays over all processes, by one all-reduce for all of them.

    Every process must call this, with arrays of the same shapes; each gets the sums.
    """
    assert all(array.dtype == np.int64 for array in counts), "floats would depend on the order"
    flat = np.concatenate([array.reshape(-1) for array in counts])
    if comm.get_world_size() > 1:
        tensor = torch.from_numpy(flat).to(_device())
        distributed.all_reduce(tensor)
        flat = tensor.cpu().numpy()
    ends = np.cumsum([array.size for array in counts])[:-1]
    return [
        part.reshape(array.shape) for part, array in zip(np.split(flat, ends), counts, strict=True)
    ]


def concatenate_over_processes(rows: np.ndarray) -> np.ndarray:
    """Put the rows (N, C) of all processes under each other, in the order of their ranks.

    Every process must call this; N may differ between them, C and the type may not. Each gets all
    rows.
    """
    world_size = comm.get_world_size()
    if world_size == 1:
        return rows
    numbers = np.zeros(world_size, dtype=np.int64)
    numbers[comm.get_rank()] = len(rows)
    (numbers,) = sum_over_processes(numbers)
    padded = np.zeros((int(numbers.max()), *rows.shape[1:]), dtype=rows.dtype)
    padded[: len(rows)] = rows
    mine = torch.from_numpy(padded).to(_device())
    everyone: list[Tensor] = [torch.empty_like(mine) for _ in range(world_size)]
    distributed.all_gather(everyone, mine)
    return np.concatenate(
        [part.cpu().numpy()[:number] for part, number in zip(everyone, numbers, strict=True)]
    )


def _device() -> torch.device:
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
