"""The image pooling for any size is Detectron2's, bit for bit, wherever Detectron2's works."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ASPP
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from panoptic_dl.models.heads import ClampedAvgPool2d, accept_any_size

side = st.integers(1, 12)


@settings(max_examples=50, deadline=None)
@given(side, side, side, side)
def test_equals_avg_pool_where_that_works_and_else_spans_the_axis(height, width, high, wide):
    x = torch.randn(2, 3, height, width)
    actual = ClampedAvgPool2d((high, wide))(x)
    if high <= height and wide <= width:
        assert torch.equal(actual, nn.AvgPool2d((high, wide), stride=1)(x))
    else:
        assert actual.shape[-2:] == (max(1, height - high + 1), max(1, width - wide + 1))
    if high >= height and wide >= width:
        torch.testing.assert_close(actual, x.mean((2, 3), keepdim=True))


# Features of the published crops (Cityscapes 512 x 1024, COCO 640 x 640) at strides 16 and 32, in
# training, and of the full Cityscapes image.
@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((32, 64), (32, 64)),
        ((16, 32), (16, 32)),
        ((40, 40), (40, 40)),
        ((20, 20), (20, 20)),
        ((16, 32), (32, 64)),
    ],
)
@pytest.mark.parametrize("separable", [False, True])
def test_published_sizes_are_unchanged_bit_for_bit(kernel, size, separable):
    torch.manual_seed(0)
    reference = ASPP(
        8,
        4,
        [3, 6, 9],
        norm="BN",
        activation=F.relu,
        pool_kernel_size=kernel,
        use_depthwise_separable_conv=separable,
    )
    ours = accept_any_size(nn.Sequential(copy.deepcopy(reference)))[0]
    assert list(ours.state_dict()) == list(reference.state_dict())
    x = torch.randn(2, 8, *size)
    results = []
    for aspp in (reference, ours):
        inputs = x.clone().requires_grad_()
        y = aspp(inputs)
        y.square().sum().backward()
        results.append([y, inputs.grad, *(p.grad for p in aspp.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_detectron2_still_refuses_other_sizes():
    """If this fails, Detectron2 has learnt it, and image_pooling.py may go."""
    aspp = ASPP(8, 4, [3, 6, 9], norm="", activation=F.relu, pool_kernel_size=(4, 4))
    x = torch.randn(1, 8, 5, 3)
    with pytest.raises(ValueError, match="pool_kernel_size"):
        aspp(x)
    assert accept_any_size(nn.Sequential(aspp))(x).shape == (1, 4, 5, 3)


def test_global_pooling_is_left_alone():
    aspp = ASPP(8, 4, [3, 6, 9], norm="", activation=F.relu)
    accept_any_size(nn.Sequential(aspp))
    assert isinstance(aspp.convs[-1][0], nn.AdaptiveAvgPool2d)
