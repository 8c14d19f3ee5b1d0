"""Batch normalization: synchronized where several processes train, folded for inference.

`nn.SyncBatchNorm` raises without a process group, does not run on the CPU and makes the host wait.
The layers that replace it have the same parameters, buffers and names, so that checkpoints fit all
of them.

At inference a batch normalization is a scale and a shift per channel, which the weights and bias of
the convolution before it can take over: the same function, fewer passes over memory.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

# nn.SyncBatchNorm is one too; its base class is all that matters here.
NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the batches of all processes, which may be of different sizes.

    What `nn.SyncBatchNorm` computes, on GPUs with its kernels, but on the CPU too, as one operator
    for `torch.compile`, and without making the host wait for the device: three times a layer there.
    One collective in the forward pass, another in the backward pass.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            output: Tensor = super().forward(input)
        else:
            normalize = _normalize_op if torch.compiler.is_compiling() else _Normalize.apply
            output, mean, var, *_ = normalize(input, self.weight, self.bias, self.eps)
            if self.running_mean is not None and self.running_var is not None:
                assert self.momentum is not None
                assert self.num_batches_tracked is not None
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(var.detach(), self.momentum)
                self.num_batches_tracked.add_(1)
        if hasattr(self, "act"):  # of timm's layers, which activate their output
            layer: Any = self
            output = layer.act(layer.drop(output))
        return output


def _normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Normalize (N, C, ...) by the statistics (C,) of all processes.

    Returns the output, mean, unbiased variance, 1 / standard deviation, and (processes,) int32
    counts of values per channel.
    """
    channels = x.shape[1]
    x, dims = _dense(x), _dims(x)
    if _has_kernels(x):
        mean, spread = torch.batch_norm_stats(x, eps)  # 1 / standard deviation
    else:
        single = x.to(torch.promote_types(x.dtype, torch.float32))
        spread, mean = torch.var_mean(single, dims, correction=0)
    own = torch.cat([mean, spread, mean.new_full((1,), x.numel() // channels)])
    everyone = own.new_empty(dist.get_world_size() * len(own))
    dist.all_gather_into_tensor(everyone, own)
    means, spreads, counts = everyone.view(-1, len(own)).split((channels, channels, 1), dim=1)
    if _has_kernels(x):
        # With momentum 1 they become the batch's.
        mean, var = own.new_zeros(channels), own.new_zeros(channels)
        _, invstd = torch.batch_norm_gather_stats_with_counts(
            x, means, spreads, mean, var, 1.0, eps, counts.reshape(-1)
        )
        output = torch.batch_norm_elemt(x, weight, bias, mean, invstd, eps)
    else:
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        biased = (counts * (spreads + (means - mean).square())).sum(0) / total
        var, invstd = biased * total / (total - 1), (biased + eps).rsqrt()
        output = F.batch_norm(x, mean, biased, weight, bias, training=False, eps=eps)
    return output, mean, var, invstd, counts.reshape(-1).int()


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, invstd: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `_normalize`'s input, weight and bias, of the last two this process's."""
    x, channels = _dense(x), x.shape[1]
    if _has_kernels(x):
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        *own, of_weight, of_bias = torch.batch_norm_backward_reduce(
            grad, x, mean, invstd, weight, True, True, True
        )
        sums = torch.cat(own)
        dist.all_reduce(sums)
        total, product = sums.split(channels)
        of_x = torch.batch_norm_backward_elemt(
            grad, x, mean, invstd, weight, total, product, counts
        )
        return of_x, of_weight, of_bias
    shape, dims = (1, channels, *[1] * (x.ndim - 2)), _dims(x)
    normalized = (x - mean.view(shape)) * invstd.view(shape)
    of_weight, of_bias = (grad * normalized).sum(dims), grad.sum(dims, dtype=mean.dtype)
    sums = torch.stack([of_weight, of_bias])
    dist.all_reduce(sums)
    slope, shift = (sums / counts.sum()).view(2, *shape)
    scale = invstd if weight is None else invstd * weight
    of_x = (grad - shift - normalized * slope) * scale.view(shape)
    return of_x.to(x.dtype), of_weight, of_bias


def _has_kernels(x: Tensor) -> bool:
    return x.is_cuda


def _dims(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


class _Normalize(torch.autograd.Function):
    """`_normalize` where nothing is compiled: an operator of torch.library costs four times it."""

    forward = staticmethod(_normalize)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, *_ = inputs
        _, mean, _, invstd, counts = output
        ctx.save_for_backward(x, weight, mean, invstd, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        return _with_gradients(ctx, _gradients, grad)


def _with_gradients(ctx: Any, gradients: Callable[..., Any], grad: Tensor) -> Any:
    x, weight, *statistics = ctx.saved_tensors  # once: recomputed activations are gone then
    of_x, *others = gradients(grad, x, weight, *statistics)
    return of_x, *(others if weight is not None else (None, None)), None


_normalize_op = torch.library.custom_op("panoptic_dl::sync_batch_norm", mutates_args=())(_normalize)
_gradients_op = torch.library.custom_op("panoptic_dl::sync_batch_norm_backward", mutates_args=())(
    _gradients
)
_normalize_op.register_autograd(
    lambda ctx, grad, *_: _with_gradients(ctx, _gradients_op, grad),
    setup_context=_Normalize.setup_context,
)


@_normalize_op.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    of_channel = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    counts = x.new_empty(dist.get_world_size(), dtype=torch.int32)
    return (torch.empty_like(_dense(x)), *(torch.empty_like(of_channel) for _ in range(3)), counts)


@_gradients_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, *_: Tensor) -> Any:
    return torch.empty_like(_dense(x)), torch.empty_like(mean), torch.empty_like(mean)


# Whose statistics are the same in all processes.
SYNCHRONIZED = (SyncBatchNorm, nn.SyncBatchNorm, NaiveSyncBatchNorm)


def convert_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every `nn.SyncBatchNorm` by a class that runs in this process group, in place.

    In one process that is `nn.BatchNorm2d`, where there is nothing to synchronize, else
    `SyncBatchNorm`. Parameters and buffers stay the same objects under the same names. Call it
    before an optimizer or DistributedDataParallel sees the model, and after the process group
    exists.
    """
    modules = model.named_modules()
    names = [name for name, module in modules if isinstance(module, nn.SyncBatchNorm)]
    if not names:
        return model
    num_processes = comm.get_world_size()
    chosen: type[nn.Module] = SyncBatchNorm if num_processes > 1 else nn.BatchNorm2d
    reason = f"{num_processes} processes"
    if num_processes == 1:
        reason = "one process, nothing to synchronize"
    logger.info("SyncBN: %d layers use %s (%s)", len(names), chosen.__name__, reason)
    for name in names:
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
