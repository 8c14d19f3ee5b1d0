"""Batch normalization: synchronized where several processes train, folded for inference."""

import copy
import logging

import pytest
import torch
from torch import nn

from panoptic_dl.models import batch_norm as normalization
from panoptic_dl.models.backbones.layers import head_norm
from panoptic_dl.models.batch_norm import (
    NORMS,
    SyncBatchNorm,
    convert_sync_batch_norm,
    fold_batch_norms,
)
from tests.models.tiny_models import build_backbone, build_panoptic, build_semantic, make_sample


def norm_classes(model):
    return {type(module) for module in model.modules() if "Norm" in type(module).__name__}


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
def test_one_process_trains_with_plain_batch_norm(build, separable, caplog):
    arguments = {"use_depthwise_separable_conv": separable}
    with caplog.at_level(logging.INFO, logger="panoptic_dl"):
        model = build(**({"head": arguments} if build is build_panoptic else arguments))
    assert norm_classes(model) == {nn.BatchNorm2d}
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "BatchNorm2d (one process, nothing to synchronize)" in messages[0]


def test_nothing_is_logged_or_changed_without_sync_batch_norm(caplog):
    backbone = build_backbone(norm="GN")
    with caplog.at_level(logging.INFO, logger="panoptic_dl"):
        model = build_panoptic(backbone, head={"norm": "GN"})
    assert norm_classes(model) == {nn.GroupNorm}
    assert not caplog.records


def test_conversion_keeps_names_values_settings_and_objects():
    model = nn.Sequential(nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3, momentum=0.2)))
    model[0][0].running_mean.fill_(3.0)
    model.eval()
    before = dict(model.state_dict(keep_vars=True))
    convert_sync_batch_norm(model)
    layer = model[0][0]
    assert type(layer) is nn.BatchNorm2d
    assert (layer.eps, layer.momentum, layer.training) == (1e-3, 0.2, False)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_several_processes_share_statistics(monkeypatch):
    names = list(build_panoptic().state_dict())
    monkeypatch.setattr(normalization.comm, "get_world_size", lambda: 8)
    model = build_panoptic()
    assert norm_classes(model) == {SyncBatchNorm}
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("build", [build_panoptic, build_semantic])
def test_group_norm_takes_widths_that_32_does_not_divide(build):
    changes = {"norm": "GN", "project_channels": (48, 728, 20)}
    model = build(
        build_backbone(norm="GN"), **({"head": changes} if build is build_panoptic else changes)
    )
    assert model.train()([make_sample(32, 32)])
    assert {m.num_groups for m in model.sem_seg_head.modules() if isinstance(m, nn.GroupNorm)} >= {
        16,
        8,
        4,
    }


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "LN", "", None, "naiveSyncBN", nn.BatchNorm2d])
def test_heads_take_every_norm(norm):
    model = build_panoptic(build_backbone(norm="BN"), head={"norm": norm}).train()
    sum(model([make_sample(64, 64)]).values()).backward()
    convolution = model.sem_seg_head.decoder["res2"]["project_conv"]
    assert (convolution.bias is not None) == (norm in ("", None))


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"norm='Batch' is unknown: choose BN, SyncBN"):
        head_norm("Batch")


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
@pytest.mark.thorough
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
