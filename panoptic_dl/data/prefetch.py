"""Batches that are on the GPU when they are asked for: copied while it works on the one before."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Batch = list[dict[str, Any]]


def moved_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches, their tensors on `device`, each copied one batch ahead of its turn.

    The copies run on a stream of their own, from pinned memory, so that neither the host nor the
    GPU waits for them. An error of `batches` is raised when the batch that it is about is due.
    """
    copies = torch.cuda.Stream(device)

    def move(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(copies):
            moved = _mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
            return moved, copies.record_event()

    def hand_over(started: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, copied = started
        now = torch.cuda.current_stream(device)
        now.wait_event(copied)  # of this batch, not of the one that is being copied
        # The allocator must not give the memory away before this stream is done with it.
        return _mapped(batch, lambda tensor: _recorded(tensor, now))

    return ahead(batches, move, hand_over)


def ahead(
    batches: Iterator[Batch],
    start: Callable[[Batch], Any],
    finish: Callable[[Any], Batch],
) -> Iterator[Batch]:
    """`finish(start(batch))` for each batch, the next one started before this one is given out."""
    upcoming = _start(batches, start)
    while True:
        due = upcoming
        if isinstance(due, Exception):
            raise due
        if due is None:
            return
        upcoming = _start(batches, start)
        yield finish(due)


def _start(batches: Iterator[Batch], start: Callable[[Batch], Any]) -> Any:
    try:
        return start(next(batches))
    except StopIteration:
        return None
    except Exception as error:  # belongs to a batch that is not due yet
        return error


def _mapped(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return [
        {
            key: change(value) if isinstance(value, Tensor) else value
            for key, value in sample.items()
        }
        for sample in batch
    ]


def _recorded(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    tensor.record_stream(stream)
    return tensor
