"""From class logits to maps at the size of the output, by strips of rows that fit the cache.

`torch.argmax` over 19 x 1024 x 2048 logits takes longer on a CPU than all other post-processing.
`argmax_classes` goes through the classes instead, a strip of rows at a time, which stays in the
cache, and returns the same in a fraction of the time.

PyTorch cuts each operation into equal parts, one for each thread, and waits for all of them: where
other processes are on the cores, every operation waits for the thread that was put off. Here a
thread goes through all operations of a strip alone, and then takes the next strip that is left.

Shapes: K classes, C channels; h w pixels at the network's stride, H W pixels of the image.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ARRAYS = 8  # of a row's length, that are in the cache at once

Result = TypeVar("Result")

# Entries of the arrays of a strip: a share of a CPU's cache, or what a GPU has memory for.
ENTRIES = {"cpu": 1 << 19, "cuda": 1 << 25}

STRIPS = 4  # that a thread must have to do: to start it takes half a millisecond

_usual: list[int] = []  # threads of an operation, of each call of `in_strips` under way
_lock = threading.Lock()
_here = threading.local()  # `is_strip`: this thread works on a strip


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
    if getattr(_here, "is_strip", False):  # of a strip: its thread does them alone
        return [work(rows) for rows in strips]
    results: dict[int, Result] = {}
    waiting = iter(range(len(strips)))
    is_inference = torch.is_inference_mode_enabled()

    def run() -> None:
        _here.is_strip = True
        try:
            with torch.inference_mode(is_inference), torch.no_grad():  # modes belong to a thread
                for number in waiting:
                    results[number] = work(strips[number])
        finally:
            _here.is_strip = False

    with _one_thread_an_operation() as num_threads:
        others = min(num_threads, len(strips) // STRIPS) - 1
        if others < 1:
            run()
        else:
            with ThreadPoolExecutor(others) as pool:
                futures = [pool.submit(run) for _ in range(others)]
                run()
            for future in futures:
                future.result()
    return [results[number] for number in range(len(strips))]


@contextmanager
def _one_thread_an_operation() -> Iterator[int]:
    """PyTorch's operations take one thread inside; yields how many they take else.

    PyTorch has the number of each thread, and the last one that was set, which new threads take
    over: also from another call of this, whose 1 must not stay.
    """
    with _lock:
        usual = _usual[0] if _usual else torch.get_num_threads()
        _usual.append(usual)
    torch.set_num_threads(1)
    try:
        yield usual
    finally:
        with _lock:
            _usual.pop()
            torch.set_num_threads(usual)


def resize(maps: Tensor, image_size: tuple[int, int], height: int, width: int) -> Tensor:
    """Cut the padding from (C, H, W) maps and scale them to (C, height, width), bilinearly.

    Detectron2's `sem_seg_postprocess`, which also copies where nothing is to be scaled: then this
    returns a view.
    """
    maps = maps[:, : image_size[0], : image_size[1]]
    if image_size == (height, width):
        return maps
    return F.interpolate(
        maps.unsqueeze(0), size=(height, width), mode="bilinear", align_corners=False
    ).squeeze(0)


def upsample(maps: Tensor, stride: int) -> Tensor:
    """(C, h, w) -> (C, h * stride, w * stride), bilinearly, as Detectron2's heads do it."""
    return F.interpolate(
        maps.unsqueeze(0), scale_factor=stride, mode="bilinear", align_corners=False
    ).squeeze(0)


def argmax_classes(logits: Tensor) -> Tensor:
    """The first class with the largest logit, as `argmax` has it: (K, H, W) -> (H, W) int64."""
    if logits.device.type == "cpu" and logits.dtype == torch.float32 and 1 < len(logits) <= 256:
        values, (height, width) = logits.detach().numpy(), logits.shape[1:]
        classes = torch.empty((height, width), dtype=torch.int64)

        def argmax_of_rows(rows: slice) -> bool:
            found = _argmax_by_class(values[:, rows])
            if found is not None:
                classes[rows] = torch.from_numpy(found)
            return found is not None

        if all(in_strips(argmax_of_rows, height, ARRAYS * width, logits.device)):
            return classes
    return logits.max(dim=0).indices


def argmax_upsampled(logits: Tensor, stride: int) -> Tensor:
    """The classes (h * stride, w * stride) of (K, h, w) logits, upsampled bilinearly.

    Equals `argmax_classes(upsample(logits, stride))` without its K * H * W numbers: a few rows at a
    time, each time with one more on either side, which the bilinear weights reach.
    """
    num_classes, num_rows, num_columns = logits.shape

    def argmax_of_rows(rows: slice) -> Tensor:
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, num_rows)
        fine = upsample(logits[:, first:last], stride)
        skip = (rows.start - first) * stride
        return argmax_classes(fine[:, skip : skip + (rows.stop - rows.start) * stride])

    row_entries = num_classes * num_columns * stride  # a part of them: a strip is upsampled whole
    return torch.cat(in_strips(argmax_of_rows, num_rows, row_entries, logits.device))


def _argmax_by_class(logits: NDArray[np.float32]) -> NDArray[np.uint8] | None:
    """(K, H, W) -> (H, W); None when a logit is NaN, which has no order."""
    classes = np.zeros(logits.shape[1:], dtype=np.uint8)
    best = logits[0].copy()
    higher = np.empty(best.shape, dtype=bool)
    for index in range(1, len(logits)):
        np.greater(logits[index], best, out=higher)
        np.maximum(logits[index], best, out=best)
        # Classes come in rising order, so that the largest that was higher is the latest.
        np.maximum(classes, higher.view(np.uint8) * np.uint8(index), out=classes)
    return None if np.isnan(best).any() else classes
