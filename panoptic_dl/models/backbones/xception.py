"""Xception-65, the modified Aligned Xception of DeepLabV3+ (Chen et al. 2018, section 4.3).

Against Chollet's Xception: more middle blocks, every max pooling replaced by a strided separable
convolution, normalization after every depthwise and pointwise convolution. Parameter names are
those of the converted TensorFlow checkpoint `tf-xception65-270e81cf.pth`.

Shapes: N batch, C channels, H W pixels.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from panoptic_dl.models.backbones.layers import (
    Norm,
    build_norm,
    freeze_stages,
    init_weights,
    select_features,
)

# Where the strides of the last three levels go when the output is kept at a finer stride: the
# stride of blocks 3 and 20, and the dilations of the middle flow, block 20 and block 21 that make
# up for the strides left out.
STRIDES_AND_DILATIONS = {
    32: ((2, 2), (1, 1, 1)),
    16: ((2, 1), (1, 1, 2)),
    8: ((1, 1), (2, 2, 4)),
}
NUM_MIDDLE_BLOCKS = 16


class _SeparableConv(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, each with normalization; ReLU before both, or
    after each of them (last block).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm,
        stride: int = 1,
        dilation: int = 1,
        relu_first: bool = True,
    ):
        super().__init__()
        bias = not norm  # which has one of its own
        depthwise = nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size=3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=bias,
        )
        layers: list[tuple[str, nn.Module]] = [
            ("depthwise", depthwise),
            ("bn_depth", build_norm(norm, in_channels)),
            ("pointwise", nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias)),
            ("bn_point", build_norm(norm, out_channels)),
        ]
        if relu_first:
            # Not in place: the input is also added to the skip path, or returned as a feature.
            layers.insert(0, ("relu", nn.ReLU()))
        else:
            layers.insert(2, ("relu_depth", nn.ReLU(inplace=True)))
            layers.append(("relu_point", nn.ReLU(inplace=True)))
        self.block = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/stride, W/stride)."""
        return self.block(x)


class _XceptionBlock(nn.Module):
    """Separable convolutions through four `channels`, the last strided, and a skip path."""

    def __init__(
        self,
        channels: Sequence[int],
        *,
        norm: Norm,
        skip: str,
        stride: int = 1,
        dilation: int = 1,
        relu_first: bool = True,
    ):
        super().__init__()
        self.skip = skip
        if skip == "conv":
            self.conv = nn.Conv2d(
                channels[0], channels[3], kernel_size=1, stride=stride, bias=not norm
            )
            self.bn = build_norm(norm, channels[3])
        shared: dict[str, Any] = {"norm": norm, "dilation": dilation, "relu_first": relu_first}
        self.sep_conv1 = _SeparableConv(channels[0], channels[1], **shared)
        self.sep_conv2 = _SeparableConv(channels[1], channels[2], **shared)
        self.sep_conv3 = _SeparableConv(channels[2], channels[3], stride=stride, **shared)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the input of its strided convolution (a finer feature)."""
        before_stride = self.sep_conv2(self.sep_conv1(x))
        y = self.sep_conv3(before_stride)
        if self.skip == "conv":
            y = y + self.bn(self.conv(x))
        elif self.skip == "sum":
            y = y + x
        return y, before_stride


class Xception65(Backbone):
    """Xception-65 with 37.9 M parameters.

    Features (name: channels, stride): res2: 256, 4; res3: 728, 8; res4: 728, min(16,
    output_stride); res5: 2048, output_stride. res2 and res3 are taken before the strided
    convolution of blocks 2 and 3, so before a ReLU: they have negative values.

    Args:
        norm: a name that Detectron2's `get_norm` knows, or a function from channels to a layer.
        output_stride: 8, 16 or 32; finer strides replace the later strides with dilation.
        out_features: which of the features to return.
        freeze_at: 0 freezes nothing, 1 the stem, 2 also blocks 1 and 2, whose res2 is, 3 block 3, 4
            the middle flow, 5 the last two blocks.

    Raises ValueError for an unknown output stride, feature, norm or stage.
    """

    _out_features: list[str]
    # Images should be multiples of this; other sizes work, with features rounded up.
    size_divisibility = 32

    def __init__(
        self,
        *,
        norm: Norm = "SyncBN",
        output_stride: int = 16,
        out_features: Sequence[str] = ("res2", "res3", "res5"),
        freeze_at: int = 0,
    ):
        super().__init__()
        if output_stride not in STRIDES_AND_DILATIONS:
            raise ValueError(f"output_stride={output_stride}: choose 8, 16 or 32")
        strides, dilations = STRIDES_AND_DILATIONS[output_stride]
        select_features(
            self,
            out_features,
            {
                "res2": ShapeSpec(channels=256, stride=4),
                "res3": ShapeSpec(channels=728, stride=8),
                "res4": ShapeSpec(channels=728, stride=min(16, output_stride)),
                "res5": ShapeSpec(channels=2048, stride=output_stride),
            },
        )
        bias = not norm
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1, bias=bias)
        self.bn1 = build_norm(norm, 32)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1, bias=bias)
        self.bn2 = build_norm(norm, 64)
        self.relu = nn.ReLU(inplace=True)

        entry: dict[str, Any] = {"skip": "conv"}
        middle: dict[str, Any] = {"skip": "sum", "dilation": dilations[0]}
        last: dict[str, Any] = {"skip": "none", "dilation": dilations[2], "relu_first": False}
        blocks = [
            ((64, 128, 128, 128), entry | {"stride": 2}),
            ((128, 256, 256, 256), entry | {"stride": 2}),
            ((256, 728, 728, 728), entry | {"stride": strides[0]}),
            *[((728,) * 4, middle)] * NUM_MIDDLE_BLOCKS,
            ((728, 728, 1024, 1024), entry | {"stride": strides[1], "dilation": dilations[1]}),
            ((1024, 1536, 1536, 2048), last),
        ]
        for number, (channels, options) in enumerate(blocks, 1):
            self.add_module(f"block{number}", _XceptionBlock(channels, norm=norm, **options))
        init_weights(self)
        names = [f"block{number}" for number in range(1, len(blocks) + 1)]
        flows = (names[:2], names[2:3], names[3:-2], names[-2:])
        freeze_stages(self, [("conv1", "bn1", "conv2", "bn2"), *flows], freeze_at)

    @property
    def recomputable_blocks(self) -> list[nn.Module]:
        """Parts that `train.activation_checkpointing` may run twice; none writes to its input."""
        return [block for block in self.children() if isinstance(block, _XceptionBlock)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images -> {name: (N, C, H/stride, W/stride)}."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        outputs = {}
        for number, block in enumerate(self.recomputable_blocks, 1):
            if number == 4 + NUM_MIDDLE_BLOCKS:
                outputs["res4"] = x
            x, before_stride = block(x)
            if number in (2, 3):
                outputs[f"res{number}"] = before_stride
        outputs["res5"] = x
        return {name: outputs[name] for name in self._out_features}
