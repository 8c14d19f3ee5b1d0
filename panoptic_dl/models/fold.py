"""Fold batch normalisation into the convolutions before it: the same function, fewer passes.

At inference a batch normalisation is a scale and a shift per channel, which the convolution's
weights and bias can take over.
"""

from collections.abc import Callable
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# nn.SyncBatchNorm is one too; its base class is all that matters here.
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def fold_batch_norms(model: nn.Module, run: Callable[[], Any]) -> int:
    """Fold in place every batch normalisation that follows a convolution; return their number.

    Args:
        model: in eval mode.
        run: a forward pass, from which it is learned which layer follows which. A normalisation is
            folded when its input is the very output of a convolution. That nothing else uses this
            output is true of our networks but not checked: compare outputs before and after.
    """
    folded = 0
    for module in model.modules():  # Detectron2's convolution calls its normalisation itself
        if isinstance(module, Conv2d) and isinstance(module.norm, NORMS):
            _fold(module, module.norm)
            module.norm = None
            folded += 1
    for convolution, name in _pairs(model, run):
        _fold(convolution, model.get_submodule(name))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())
        folded += 1
    return folded


def _pairs(model: nn.Module, run: Callable[[], Any]) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, and the names of the normalisations that they feed in `run`."""
    pairs: list[tuple[nn.Conv2d, str]] = []
    produced: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so ids stay unique
    handles = []

    def after_convolution(module: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        produced[id(output)] = (module, output)

    def before_norm(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            found = produced.pop(id(inputs[0]), None)
            if found is not None:
                pairs.append((found[0], name))
            produced.clear()  # a normalisation comes right after its convolution

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, NORMS):
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return pairs


def _fold(convolution: nn.Conv2d, norm: Any) -> None:
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
