"""Batch normalization: synchronized where several processes train, folded for inference.

`nn.SyncBatchNorm` raises without a process group and does not run on CPU. The layers that replace
it have the same parameters, buffers and names, so that checkpoints fit all of them.

At inference a batch normalization is a scale and a shift per channel, which the weights and bias of
the convolution before it can take over: the same function, fewer passes over memory.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

# nn.SyncBatchNorm is one too; its base class is all that matters here.
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


def _choose_batch_norm() -> tuple[type[nn.Module], str]:
    """Return the class that "SyncBN" means in this process group, and the reason in words."""
    num_processes = comm.get_world_size()
    if num_processes == 1:
        return nn.BatchNorm2d, "one process, nothing to synchronize"
    if "nccl" in dist.get_backend():
        return nn.SyncBatchNorm, f"{num_processes} processes on GPUs"
    return (
        NaiveSyncBatchNorm,
        f"{num_processes} processes without NCCL, where nn.SyncBatchNorm cannot run",
    )


def convert_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every `nn.SyncBatchNorm` by the class of `_choose_batch_norm`, in place, and log it.

    Parameters and buffers stay the same objects under the same names. Call it before an optimizer
    or DistributedDataParallel sees the model, and after the process group exists.
    """
    names = [name for name, module in model.named_modules() if type(module) is nn.SyncBatchNorm]
    if not names:
        return model
    chosen, reason = _choose_batch_norm()
    logger.info("SyncBN: %d layers use %s (%s)", len(names), chosen.__name__, reason)
    if chosen is nn.SyncBatchNorm:
        return model
    for name in names:
        parent_name, _, child_name = name.rpartition(".")
        setattr(
            model.get_submodule(parent_name), child_name, _copy(model.get_submodule(name), chosen)
        )
    return model


def _copy(layer: nn.Module, chosen: type[nn.Module]) -> nn.Module:
    """A layer of class `chosen` that shares settings, parameters and buffers with `layer`."""
    assert isinstance(layer, nn.SyncBatchNorm)
    with torch.device("meta"):
        copy = chosen(
            layer.num_features,
            eps=layer.eps,
            momentum=layer.momentum,
            affine=layer.affine,
            track_running_stats=layer.track_running_stats,
        )
    for name, parameter in layer.named_parameters():
        setattr(copy, name, parameter)
    for name, buffer in layer.named_buffers():
        setattr(copy, name, buffer)
    return copy.train(layer.training)


def fold_batch_norms(model: nn.Module, run: Callable[[], Any]) -> int:
    """Fold in place every batch normalization that follows a convolution; return their number.

    Args:
        model: in eval mode.
        run: a forward pass, from which it is learned which layer follows which. A normalization is
            folded when its input is the very output of a convolution. That nothing else uses this
            output is true of our networks but not checked: compare outputs before and after.
    """
    folded = 0
    for module in model.modules():  # Detectron2's convolution calls its normalization itself
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
    """Convolutions, and the names of the normalizations that they feed in `run`."""
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
            produced.clear()  # a normalization comes right after its convolution

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
