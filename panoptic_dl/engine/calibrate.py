"""Give random weights activations of healthy size, so that precisions can be compared on them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def calibrate(model: nn.Module, run: Callable[[], Any]) -> None:
    """Set running statistics, in eval mode, to those of the activations of one forward pass.

    Layer by layer, each after the ones before it. Scale and shift of the normalisations become
    random numbers about 1 and 0, as in a trained network; the last convolutions, which start at a
    thousandth of the usual size, are scaled to outputs of standard deviation 1.
    """
    random = torch.Generator().manual_seed(0)
    handles = []

    def before_norm(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        x = inputs[0].float()
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(x.mean(dim=(0, 2, 3)))
        module.running_var.copy_(x.var(dim=(0, 2, 3), correction=0) + 1e-3)
        if module.affine:
            module.weight.copy_(1 + 0.1 * torch.randn(module.weight.shape, generator=random))
            module.bias.copy_(0.1 * torch.randn(module.bias.shape, generator=random))

    def after_predictor(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Conv2d)
        scale = 1 / output.std(correction=0).clamp(min=1e-6)
        module.weight.mul_(scale)
        return output * scale

    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(before_norm))
        elif isinstance(module, nn.Conv2d) and name.rpartition(".")[2].endswith("predictor"):
            handles.append(module.register_forward_hook(after_predictor))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
