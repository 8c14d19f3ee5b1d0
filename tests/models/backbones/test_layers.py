"""Every normalization of `get_norm` works in both families of backbones."""

import itertools

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
        numbers = {"num_modules": (1, 1, 1, 1), "num_blocks": 1, "stem_channels": 16}
        return lambda norm, **options: HRNet(width=18, norm=norm, **numbers, **options)
    monkeypatch.setattr(xception, "NUM_MIDDLE_BLOCKS", 1)
    return lambda norm, **options: xception.Xception65(norm=norm, **options)


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


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_frozen_stages_do_not_move(build, norm):
    """Neither parameters nor statistics; all that comes after them does."""
    names = [name for name in build(norm).state_dict() if not name.endswith("tracked")]
    parts, frozen = [*dict.fromkeys(map(part, names))], []
    for freeze_at in range(6):
        torch.manual_seed(0)
        backbone = build(norm, freeze_at=freeze_at).train()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        features = backbone(torch.randn(2, 3, 64, 64))
        trained = [p for p in backbone.parameters() if p.requires_grad]
        if trained:
            sum(x.square().mean() for x in features.values()).backward()
            torch.optim.SGD(trained, 0.1).step()
        after = backbone.state_dict()
        assert [name for name in after if not name.endswith("tracked")] == names
        moved = {name for name in names if not before[name].equal(after[name])}
        still = [name for name in parts if name not in {*map(part, moved)}]
        assert still == parts[: len(still)]
        assert {part(n) for n, p in backbone.named_parameters() if p.requires_grad} <= {
            *parts[len(still) :]
        }
        frozen.append(still)
    added = [{*more} - {*less} for less, more in itertools.pairwise(frozen)]
    assert (frozen[0], frozen[5]) == ([], parts)
    assert added[0] == {"conv1", "bn1", "conv2", "bn2"}
    assert added[1:] in (
        [{"layer1"}, *({f"transition{i}", f"stage{i + 1}"} for i in (1, 2, 3))],
        [{"block1", "block2"}, {"block3"}, {"block4"}, {"block5", "block6"}],
    )
    with pytest.raises(ValueError, match=r"freeze_at=6: choose 0 .* to 5"):
        build(norm, freeze_at=6)


def part(name):
    return name.partition(".")[0]
