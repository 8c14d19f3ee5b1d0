"""Xception-65 at every output stride."""

import math

import pytest
import torch
from torch import nn

from panoptic_dl.models.backbones import xception
from panoptic_dl.models.backbones.xception import Xception65

ALL = ("res2", "res3", "res4", "res5")


@pytest.fixture(autouse=True)
def short_middle(monkeypatch):
    monkeypatch.setattr(xception, "NUM_MIDDLE_BLOCKS", 1)


@pytest.mark.parametrize(
    ("output_stride", "strides"),
    [(32, (4, 8, 16, 32)), (16, (4, 8, 16, 16)), (8, (4, 8, 8, 8))],
)
def test_strides(output_stride, strides):
    backbone = Xception65(norm="BN", output_stride=output_stride, out_features=ALL).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 128))
    assert tuple(shape.stride for shape in backbone.output_shape().values()) == strides
    for feature, stride in zip(features.values(), strides, strict=True):
        assert feature.shape[-2:] == (64 // stride, 128 // stride)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_makes_up_for_the_strides_left_out(output_stride):
    """Where it has values, the coarse network computes the same from the same weights.

    Strided convolutions keep every second value and the dilated ones look at just these, so the
    feature at stride 32 is the finer one subsampled, except that its padding is cut elsewhere.
    """
    coarse = Xception65(norm="BN", output_stride=32, out_features=["res5"]).eval()
    fine = Xception65(norm="BN", output_stride=output_stride, out_features=["res5"]).eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 256, 256)
    step = 32 // output_stride
    with torch.no_grad():
        expected = coarse(image)["res5"]
        actual = fine(image)["res5"][..., ::step, ::step]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_features_before_a_relu_stay_untouched():
    """Blocks begin with a ReLU; in place it would cut what has been returned."""
    backbone = Xception65(norm="BN", out_features=ALL).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 64))
    for name in ("res2", "res3", "res4"):
        assert features[name].min() < 0
    assert features["res5"].min() >= 0


def test_initial_weights_follow_the_fan_out_of_each_group():
    block = Xception65(norm="BN").recomputable_blocks[-2].sep_conv3.block
    depthwise, pointwise = block.depthwise.weight, block.pointwise.weight
    assert depthwise.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert pointwise.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.05)


def test_an_unknown_output_stride_is_refused():
    with pytest.raises(ValueError, match="output_stride=4: choose 8, 16 or 32"):
        Xception65(output_stride=4)


def test_number_of_parameters(monkeypatch):
    monkeypatch.undo()
    with torch.device("meta"):
        backbone = Xception65(norm="BN")
    assert sum(p.numel() for p in backbone.parameters()) == 37_867_312
    assert not any(isinstance(m, nn.Conv2d) and m.bias is not None for m in backbone.modules())
