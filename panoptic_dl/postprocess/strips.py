"""Strips of image rows that fit a CPU's cache, and threads that take one after the other.

PyTorch cuts each operation into equal parts, one for each thread, and waits for all of them: where
other processes are on the cores, every operation waits for the thread that was put off. Here a
thread goes through all operations of a strip alone, and then takes the next strip that is left.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Entries of the arrays of a strip: a share of a CPU's cache, or what a GPU has memory for.
ENTRIES = {"cpu": 1 << 19, "cuda": 1 << 25}


def waits(tensor: Tensor) -> bool:
    """Whether the host would wait for a GPU if it read a number of this tensor."""
    return tensor.is_cuda


def in_strips(
    work: Callable[[slice], Result], height: int, row_entries: int, device: torch.device
) -> list[Result]:
    """`work(rows)` for strips of 0..height, in their order.

    Args:
        work: takes a slice of rows; on a CPU called in several threads, as many as PyTorch uses for
            an operation. It may read what all strips have in common and write to its own rows.
        row_entries: entries of all arrays that a row takes.
    """
    step = max(1, ENTRIES.get(device.type, ENTRIES["cpu"]) // max(1, row_entries))
    strips = [slice(start, min(start + step, height)) for start in range(0, height, step)]
    if device.type == "cuda":
        return [work(rows) for rows in strips]
    results: dict[int, Result] = {}
    waiting = iter(range(len(strips)))
    is_inference = torch.is_inference_mode_enabled()

    def run() -> None:
        with torch.inference_mode(is_inference), torch.no_grad():  # modes belong to a thread
            for number in waiting:
                results[number] = work(strips[number])

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of operations; new threads take it over
    try:
        others = min(num_threads, len(strips)) - 1
        if others < 1:
            run()
        else:
            with ThreadPoolExecutor(others) as pool:
                futures = [pool.submit(run) for _ in range(others)]
                run()
            for future in futures:
                future.result()
    finally:
        torch.set_num_threads(num_threads)
    return [results[number] for number in range(len(strips))]
