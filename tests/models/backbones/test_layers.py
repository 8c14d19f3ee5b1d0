"""Every normalization of `get_norm` works in both families of backbones."""

import pytest
import torch
from torch import nn

from panoptic_dl.models.backbones import xception
from panoptic_dl.models.backbones.hrnet import HRNet
from panoptic_dl.models.backbones.layers import build_norm

NORMS = ["BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", ""]


@pytest.fixture(params=["hrnet", "xception"])
def build(request, monkeypatch):
    if request.param == "hrnet":
        return lambda norm: HRNet(
            width=18, norm=norm, num_modules=(1, 1, 1, 1), num_blocks=1, stem_channels=16
        )
    monkeypatch.setattr(xception, "NUM_MIDDLE_BLOCKS", 1)
    return lambda norm: xception.Xception65(norm=norm)


@pytest.mark.parametrize("norm", [*NORMS, None, nn.InstanceNorm2d])
def test_forward_with_every_norm(build, norm):
    backbone = build(norm)
    features = backbone.eval()(torch.randn(1, 3, 64, 64))
    assert all(feature.isfinite().all() for feature in features.values())
    without = norm in ("", None)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.bias is not None) == without


@pytest.mark.parametrize("norm", ["SyncBN", "naiveSyncBN"])
def test_synchronized_norms_have_the_names_of_bn(build, norm):
    assert list(build(norm).state_dict()) == list(build("BN").state_dict())


def test_batch_norm_keeps_the_epsilon_of_the_reference(build):
    """TensorFlow's Xception has 1e-3, the reference's converted one 1e-5."""
    epsilons = {m.eps for m in build("BN").modules() if isinstance(m, nn.BatchNorm2d)}
    assert epsilons == {1e-5}


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (728, 8), (18, 2), (7, 1)])
def test_group_norm_divides_any_width(channels, groups):
    assert build_norm("GN", channels).num_groups == groups


def test_an_unknown_norm_is_refused_with_the_known_ones(build):
    with pytest.raises(ValueError, match=r"norm='Batch' is unknown: choose BN, SyncBN"):
        build("Batch")
