"""Tensors without data on a GPU that need not be there, and a count of what the host waits for."""

from collections import Counter
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_dl.postprocess import grouping

aten = torch.ops.aten
NUM_PIXELS = 100_000
NUM_INSTANCES = 40
# What the host is told, by the number of values that it asks for at once.
ANSWERS = {1: [1000], 3: [NUM_INSTANCES, 0, 18]}


class HostWaits(TorchDispatchMode):
    """Counts, by operator, what makes the host wait for the GPU; gives made-up sizes and numbers.

    Enter it inside a `FakeTensorMode`. `copies` counts copies from the host to the GPU, which wait
    too where the memory is not pinned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], torch.Tensor) else None
        on_gpu = first is not None and first.device.type == "cuda"
        packet = func.overloadpacket
        if packet is aten._local_scalar_dense and on_gpu:
            self._count("item", True)
            return 1.0 if first.dtype.is_floating_point else 1
        if packet is aten.nonzero:
            self._count("nonzero", on_gpu)
            return first.new_empty((self._chosen(first), first.ndim), dtype=torch.int64)
        if packet is aten._unique2:
            self._count("unique", on_gpu)
            shapes = ((NUM_INSTANCES,), first.shape, (0,))
            return tuple(first.new_empty(shape, dtype=torch.int64) for shape in shapes)
        if packet in (aten.masked_select, aten.repeat_interleave, aten.bincount):
            self._count(str(packet), on_gpu and kwargs.get("output_size") is None)
        if packet in (aten.index, aten.index_put, aten.index_put_):
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self._count("mask", on_gpu)
        result = func(*args, **kwargs)
        if packet in (aten._to_copy, aten.copy_) and isinstance(result, torch.Tensor):
            source = args[1] if packet is aten.copy_ else first
            if source.device.type == "cuda" and result.device.type == "cpu":
                self._count("copy", not kwargs.get("non_blocking"))
            elif source.device.type == "cpu" and result.device.type == "cuda":
                self.copies[str(tuple(result.shape))] += 1
        return result

    def _chosen(self, mask: torch.Tensor) -> int:
        return NUM_PIXELS if mask.numel() > NUM_PIXELS else 0

    def _count(self, name: str, waits: bool) -> None:
        if waits:
            self.waits[name] += 1


@contextmanager
def fake_gpu():
    """Tensors of the device "cuda" have no data inside; yields the count of waits."""

    def tolist(tensor: FakeTensor) -> Any:
        if not tensor.numel():
            return []
        counted._count("tolist", tensor.is_cuda)
        if tensor.ndim == 2:  # of each id: it is a thing, and its center is odd
            return [[True] * tensor.shape[1], [False] * tensor.shape[1]]
        return list(ANSWERS[tensor.numel()])

    grouping._on_device.cache_clear()
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(), HostWaits() as counted:
        patch.setattr(FakeTensor, "tolist", tolist)
        try:
            yield counted
        finally:
            grouping._on_device.cache_clear()
