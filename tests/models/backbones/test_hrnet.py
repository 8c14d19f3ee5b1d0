"""HRNet's widths and the numbers that shrink it."""

import pytest
import torch

from panoptic_dl.models.backbones.hrnet import HRNet


@pytest.mark.parametrize(("width", "count"), [(18, 9_562_260), (32, 29_305_536), (48, 65_325_120)])
def test_number_of_parameters(width, count):
    with torch.device("meta"):
        backbone = HRNet(width=width, norm="BN")
    assert sum(p.numel() for p in backbone.parameters()) == count
    assert [shape.channels for shape in backbone.output_shape().values()] == [
        width * 2**level for level in range(4)
    ]


def test_numbers_that_shrink_it():
    with torch.device("meta"):
        backbone = HRNet(
            width=6, norm="BN", num_modules=[1, 1, 2, 1], num_blocks=2, stem_channels=10
        )
    assert backbone.conv1.out_channels == 10
    assert backbone.transition1[0][0].in_channels == 40
    assert [len(stage) for stage in (backbone.stage2, backbone.stage3, backbone.stage4)] == [
        1,
        2,
        1,
    ]
    assert {len(branch) for branch in backbone.stage4[0].branches} == {len(backbone.layer1)} == {2}


@pytest.mark.parametrize(
    "numbers",
    [{"num_modules": (1, 4, 3)}, {"num_modules": (2, 1, 4, 3)}, {"num_modules": (1, 0, 1, 1)}],
)
def test_impossible_modules_are_refused(numbers):
    with pytest.raises(ValueError, match="num_modules"):
        HRNet(**numbers)


@pytest.mark.parametrize("numbers", [{"width": 0}, {"num_blocks": 0}, {"stem_channels": 0}])
def test_impossible_widths_are_refused(numbers):
    with pytest.raises(ValueError, match="at least 1"):
        HRNet(**numbers)
