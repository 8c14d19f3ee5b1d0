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
from detectron2 import layers
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

# nn.SyncBatchNorm is one too; its base class is all that matters here.
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


class NaiveSyncBatchNorm(layers.NaiveSyncBatchNorm):
    """Detectron2's, whose buffers are those that one process would have.

    Its running variance is a biased one, which a small batch of 1 x 1 pixels halves (ASPP's pooled
    branch), and it counts no batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        before = self.running_var.clone()
        output: Tensor = super().forward(input)
        if self.training:
            count = input.numel() // self.num_features * comm.get_world_size()
            added = self.running_var - (1 - self.momentum) * before
            self.running_var += added / (count - 1)
            self.num_batches_tracked += 1
        if hasattr(self, "act"):  # of timm's layers, which activate their output
            output = self.act(self.drop(output))
        return output


def convert_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every `nn.SyncBatchNorm` by a class that runs in this process group, in place.

    In one process that is `nn.BatchNorm2d`, where there is nothing to synchronize; in several
    without NCCL, where `nn.SyncBatchNorm` cannot run, `NaiveSyncBatchNorm`. Parameters and buffers
    stay the same objects under the same names. Call it before an optimizer or
    DistributedDataParallel sees the model, and after the process group exists.
    """
    modules = model.named_modules()
    names = [name for name, module in modules if isinstance(module, nn.SyncBatchNorm)]
    if not names:
        return model
    num_processes = comm.get_world_size()
    chosen: type[nn.Module] = NaiveSyncBatchNorm
    reason = f"{num_processes} processes without NCCL, where nn.SyncBatchNorm cannot run"
    if num_processes == 1:
        chosen, reason = nn.BatchNorm2d, "one process, nothing to synchronize"
    elif "nccl" in dist.get_backend():
        chosen, reason = nn.SyncBatchNorm, f"{num_processes} processes on GPUs"
    logger.info("SyncBN: %d layers use %s (%s)", len(names), chosen.__name__, reason)
    for name in names if chosen is not nn.SyncBatchNorm else ():
        layer: Any = model.get_submodule(name)
        with torch.device("meta"):
            copy = chosen(
                layer.num_features,
                eps=layer.eps,
                momentum=layer.momentum,
                affine=layer.affine,
                track_running_stats=layer.track_running_stats,
            )
        copy._parameters.update(layer._parameters)
        copy._buffers.update(layer._buffers)
        copy._modules.update(layer._modules)
        model.set_submodule(name, copy.train(layer.training))
    return model


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

    pairs: list[tuple[nn.Conv2d, nn.Module]] = []
    produced: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept, so ids stay unique

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            produced[id(output)] = (module, output)

    def before(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, NORMS):
            if id(inputs[0]) in produced:
                pairs.append((produced[id(inputs[0])][0], module))
            produced.clear()  # a normalization comes right after its convolution

    with (
        register_module_forward_hook(after),
        register_module_forward_pre_hook(before),
        torch.no_grad(),
    ):
        run()
    names = {module: name for name, module in model.named_modules()}
    for convolution, norm in pairs:
        _fold(convolution, norm)
        model.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
    return folded + len(pairs)


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
