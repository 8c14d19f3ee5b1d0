"""The memory of a training step, counted on tensors that have shapes and no data.

Forward and backward pass run with PyTorch's fake tensors in the true size of the crops, on any
machine in seconds; the storages that are alive at the same time are added up.
"""

import copy
import math
import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeCopyMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panoptic_dl.doctor.context import CheckContext
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.batch_norm import SYNCHRONIZED
from panoptic_dl.train.checkpoint import optimizer_copies
from panoptic_dl.train.precision import autocast

BLOCK = 512  # bytes of which a GPU's allocator gives whole numbers
CUDA_CONTEXT = 0.6 * 2**30  # bytes, with the libraries' workspaces


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages made inside that are alive, and the most at one time.

    A number that a model reads off a fake tensor is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()  # addresses of storages

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was made before."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._known:
            size = math.ceil(storage.nbytes() / BLOCK) * BLOCK
            self._known.add(address)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self._known.remove(address)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


def estimate_step(context: CheckContext) -> tuple[float, float]:
    """Bytes of a training step in one process: fixed ones, and those of each image of a pass.

    Raises RuntimeError or NotImplementedError for a model that needs the values of its tensors.
    """
    images, train = context.images_per_pass, context.train
    model = context.part("model")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    fixed = weights * (optimizer_copies(context.part("optimizer")(model)) + bool(train["ema"]))
    fixed += CUDA_CONTEXT if context.device == "cuda" else 0
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, LiveBytes() as live:
        with FakeCopyMode(mode):
            model = copy.deepcopy(model).train()
        for layer in model.modules():
            if isinstance(layer, SYNCHRONIZED):
                layer.eval()  # it would wait for the other processes; it keeps as much
        if train["activation_checkpointing"]:
            recompute_activations(model.get_submodule("backbone"))
        if context.num_processes > 1 or train["batch_size"] > images:
            for parameter in model.parameters():  # of the step, or pass, before
                parameter.grad = torch.empty_like(parameter)
        for tensor in (*model.parameters(), *model.buffers()):
            live.add(tensor)
        before = live.peak = live.now
        batch = [_sample(*context.sizes["crop_size"]) for _ in range(images)]
        precision = train["precision"].replace("fp16", "bf16")  # both are as long
        with autocast(precision, torch.device("cpu")):
            losses = model(batch)
        sum(losses.values()).backward()
    return fixed + before, (live.peak - before) / images


def _sample(height: int, width: int) -> dict[str, Any]:
    """An image with the targets of both tasks."""
    return {
        "image": torch.empty(3, height, width, dtype=torch.uint8),
        "height": height,
        "width": width,
        "sem_seg": torch.empty(height, width, dtype=torch.int64),
        "sem_seg_weights": torch.empty(height, width),
        "center": torch.empty(height, width),
        "center_weights": torch.empty(1, height, width),
        "offset": torch.empty(2, height, width),
        "offset_weights": torch.empty(1, height, width),
    }
