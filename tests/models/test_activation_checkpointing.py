"""Recomputed activations: the same training to the last bit, with less memory."""

import pytest
import torch
from torch import nn

from panoptic_dl.core import environment
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.backbones import HRNet, Xception65
from panoptic_dl.models.batch_norm import convert_sync_batch_norm
from tests.models.tiny_models import build_backbone, build_panoptic, require_same, train_both

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", ["hrnet", "xception"])
@pytest.mark.parametrize("norm", ["BN", "naiveSyncBN", "GN"])
def test_losses_gradients_and_running_statistics_are_the_same_bits(name, norm):
    torch.manual_seed(0)
    plain, changed, first, second = train_both(lambda: build_panoptic(build_backbone(name, norm)))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    require_same(plain, changed)
    if norm == "BN":
        counters = [v for k, v in changed.state_dict().items() if k.endswith("batches_tracked")]
        assert {int(counter) for counter in counters} == {3}


def test_dropout_inside_a_block_is_drawn_once():
    class Dropping(nn.Module):
        """A block that draws random numbers."""

        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(nn.functional.dropout(x, 0.5, self.training))

    def build():
        torch.manual_seed(0)
        model = build_panoptic(build_backbone("hrnet", "BN"))
        model.backbone.layer1[0] = Dropping(model.backbone.layer1[0])
        return model

    plain, changed, _, _ = train_both(build, steps=1)
    require_same(plain, changed)


def test_inference_and_eval_mode_are_left_alone(monkeypatch):
    from panoptic_dl.models import activation_checkpointing

    backbone = build_backbone("hrnet", "BN")
    recompute_activations(backbone)

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(activation_checkpointing, "checkpoint", never)
    backbone.eval()(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        backbone.train()(torch.randn(1, 3, 64, 64))
    with pytest.raises(AssertionError):
        backbone.train()(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["hrnet", "xception"])
def test_peak_memory_falls(name):
    def peak(recompute):
        torch.manual_seed(0)
        backbone = (HRNet(width=18) if name == "hrnet" else Xception65(norm="BN")).train()
        convert_sync_batch_norm(backbone)
        if recompute:
            recompute_activations(backbone)
        images = torch.randn(1, 3, 160, 160)

        def step():
            sum(feature.mean() for feature in backbone(images).values()).backward()

        step()  # gradients are there from now on
        before = environment.reset_peak_memory(torch.device("cpu"))
        step()
        return environment.peak_host_memory() - before

    # The lower of two: the allocator may keep up to a quarter of a peak for reuse.
    plain, recomputed = min(peak(False), peak(False)), min(peak(True), peak(True))
    assert plain > 50
    assert recomputed < 0.8 * plain


def test_backbones_that_list_no_blocks_are_told_how():
    with pytest.raises(ValueError, match="give Sequential a property `recomputable_blocks`"):
        recompute_activations(nn.Sequential(nn.Linear(1, 1)))


def test_every_backbone_lists_blocks_that_hold_most_of_its_parameters():
    for name in ("hrnet", "xception"):
        backbone = build_backbone(name)
        blocks = backbone.recomputable_blocks
        inside = {id(p) for block in blocks for p in block.parameters()}
        assert sum(len(list(b.parameters())) for b in blocks) == len(inside)  # none twice
        total = sum(p.numel() for p in backbone.parameters())
        assert sum(p.numel() for p in backbone.parameters() if id(p) in inside) > 0.6 * total
