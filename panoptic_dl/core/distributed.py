"""What the processes of a run send each other: sums, rows, metrics of a step."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor, distributed

from panoptic_dl.core.errors import EvaluationError


def sum_over_processes(*counts: np.ndarray) -> list[np.ndarray]:
    """Sum int64 arrays over all processes, by one all-reduce for all of them.

    Every process must call this, with arrays of the same shapes; each gets the sums.
    """
    assert all(array.dtype == np.int64 for array in counts), "floats would depend on the order"
    flat = np.concatenate([array.reshape(-1) for array in counts])
    if comm.get_world_size() > 1:
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        tensor = torch.from_numpy(flat).to(device)
        distributed.all_reduce(tensor)
        flat = tensor.cpu().numpy()
    ends = np.cumsum([array.size for array in counts])[:-1]
    return [
        part.reshape(array.shape) for part, array in zip(np.split(flat, ends), counts, strict=True)
    ]


def concatenate_over_processes(rows: np.ndarray) -> np.ndarray:
    """Put the rows (N, C) of all processes under each other, in the order of their ranks.

    Every process must call this; N may differ between them. Each gets all rows.
    """
    everyone = [rows] * comm.get_world_size()
    if len(everyone) > 1:  # Detectron2's all_gather keeps the first group of the process
        distributed.all_gather_object(everyone, rows)
    return np.concatenate(everyone)


EXACT_PARTS = 3  # integers for a float
EXACT_BITS = 30  # of a part; a sum of 2^33 parts still fits 64 bits


def to_exact(values: np.ndarray) -> np.ndarray:
    """Turn floats (...) from [0, 2^30) into integers (..., 3) int64, rounding down to 2^-60.

    Sums of the integers are exact, whatever their order, and only the total becomes a float again
    (`from_exact`): results do not depend on the number of processes.
    """
    values = np.asarray(values, dtype=np.float64)
    assert np.all((values >= 0) & (values < 2.0**EXACT_BITS)), "outside what the parts can hold"
    parts = np.empty((*values.shape, EXACT_PARTS), dtype=np.int64)
    for index in range(EXACT_PARTS):
        integer = np.floor(values)
        parts[..., index] = integer
        values = (values - integer) * 2.0**EXACT_BITS  # both operations are exact
    return parts


def from_exact(parts: np.ndarray) -> np.ndarray:
    """Turn sums of parts (..., 3) int64 into the floats (...) nearest to the totals."""
    totals = [
        ((int(high) << 2 * EXACT_BITS) + (int(middle) << EXACT_BITS) + int(low))
        / (1 << 2 * EXACT_BITS)
        for high, middle, low in parts.reshape(-1, EXACT_PARTS).tolist()
    ]
    return np.array(totals, dtype=np.float64).reshape(parts.shape[:-1])


def in_main_process(work: Callable[[], None], what: str) -> None:
    """Call `work` in the main process; return in all, which must call this, when it is done.

    If it fails, the others raise EvaluationError "cannot <what>", the main one what it raised.
    """
    failure: Exception | None = None
    if comm.is_main_process():
        try:
            work()
        except Exception as error:  # the others must not wait for ever, whatever it is
            failure = error
    (failures,) = sum_over_processes(np.array([failure is not None], dtype=np.int64))
    if failure is not None:
        raise failure
    if failures[0]:
        raise EvaluationError(f"the main process cannot {what}: its own message says why")


def gather_metrics(tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> Tensor:
    """Return every process's metrics, (processes, metrics) float64; the same in each process.

    They are on the device of the tensors, for which the host does not wait.

    Args:
        tensors: scalars, detached, on the device that the processes communicate with.
        numbers: metrics of the host. Names and their order are the same in all processes.
    """
    device = next(iter(tensors.values())).device
    of_host = torch.tensor(list(numbers.values()), dtype=torch.float64)
    own = torch.cat(
        [
            torch.stack([value.double() for value in tensors.values()]),
            of_host.to(device, non_blocking=True),
        ]
    )
    rows = [own]
    if comm.get_world_size() > 1:
        rows = [torch.empty_like(own) for _ in range(comm.get_world_size())]
        distributed.all_gather(rows, own)
    return torch.stack(rows)
