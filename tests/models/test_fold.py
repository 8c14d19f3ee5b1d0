"""Folded batch normalization computes the same function."""

import copy

import pytest
import torch
from torch import nn

from panoptic_dl.models.batch_norm import NORMS, fold_batch_norms
from tests.models.small import build_backbone, build_panoptic


def randomise(model):
    """Statistics as after training: identities would fold whatever the code does."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.2)


@pytest.mark.parametrize("backbone", ["hrnet", "xception"])
@pytest.mark.parametrize("separable", [False, True])
def test_every_batch_norm_is_folded_and_nothing_changes(backbone, separable):
    model = build_panoptic(
        build_backbone(backbone), head={"use_depthwise_separable_conv": separable}
    )
    model.double().eval()
    randomise(model)
    names = [name for name, module in model.named_modules() if isinstance(module, NORMS)]
    folded = copy.deepcopy(model)
    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    assert fold_batch_norms(folded, lambda: folded.network(image)) == len(names) > 20
    assert not any(isinstance(module, NORMS) for module in folded.modules())
    other = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(folded.network(other), model.network(other), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_other_normalizations_stay():
    model = build_panoptic(build_backbone(norm="GN"), head={"norm": "GN"}).eval()
    image = torch.randn(1, 3, 64, 64)
    assert fold_batch_norms(model, lambda: model.network(image)) == 0
