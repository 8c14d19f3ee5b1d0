"""HRNet (Wang et al. 2020, "Deep High-Resolution Representation Learning for Visual Recognition").

Parallel branches at strides 4, 8, 16 and 32 that exchange information after every few residual
blocks. Parameter names are those of the authors' ImageNet checkpoints (HRNet-Image-Classification),
without their classification parts.

Shapes: N batch, C channels, H W pixels.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
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

BOTTLENECK_EXPANSION = 4


def _conv3x3(in_channels: int, out_channels: int, norm: Norm, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size, or halves it (rounding up) with stride 2."""
    bias = not norm  # which has one of its own
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


def _downsample(channels: Sequence[int], norm: Norm, last_relu: bool) -> nn.Sequential:
    """A chain of strided 3x3 convolutions through `channels`, each halving the size."""
    steps = []
    for index, (before, after) in enumerate(itertools.pairwise(channels)):
        step = [_conv3x3(before, after, norm, stride=2), build_norm(norm, after)]
        if last_relu or index < len(channels) - 2:
            step.append(nn.ReLU(inplace=True))
        steps.append(nn.Sequential(*step))
    return nn.Sequential(*steps)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity skip path (He et al. 2016)."""

    def __init__(self, num_channels: int, norm: Norm):
        super().__init__()
        self.conv1 = _conv3x3(num_channels, num_channels, norm)
        self.bn1 = build_norm(norm, num_channels)
        self.conv2 = _conv3x3(num_channels, num_channels, norm)
        self.bn2 = build_norm(norm, num_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + x)


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a skip path (He et al. 2016): the first stage."""

    def __init__(self, in_channels: int, mid_channels: int, norm: Norm):
        super().__init__()
        out_channels = BOTTLENECK_EXPANSION * mid_channels
        bias = not norm
        self.conv1 = nn.Conv2d(in_channels, mid_channels, kernel_size=1, bias=bias)
        self.bn1 = build_norm(norm, mid_channels)
        self.conv2 = _conv3x3(mid_channels, mid_channels, norm)
        self.bn2 = build_norm(norm, mid_channels)
        self.conv3 = nn.Conv2d(mid_channels, out_channels, kernel_size=1, bias=bias)
        self.bn3 = build_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=bias),
                build_norm(norm, out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 * mid_channels, H, W)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu(y + skip)


class _HighResolutionModule(nn.Module):
    """Residual blocks on every branch, fine to coarse; each receives the sum of all branches."""

    def __init__(self, channels: Sequence[int], num_blocks: int, norm: Norm):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(_BasicBlock(width, norm) for _ in range(num_blocks)))
            for width in channels
        )
        # fuse_layers[i][j] brings branch j to the channels, and if finer to the size, of i.
        self.fuse_layers = nn.ModuleList()
        for target, width in enumerate(channels):
            layers: list[nn.Module] = []
            for source, source_width in enumerate(channels):
                if source > target:
                    bias = not norm
                    project = nn.Conv2d(source_width, width, kernel_size=1, bias=bias)
                    layers.append(nn.Sequential(project, build_norm(norm, width)))
                elif source == target:
                    layers.append(nn.Identity())
                else:
                    chain = [source_width] * (target - source) + [width]
                    layers.append(_downsample(chain, norm, last_relu=False))
            self.fuse_layers.append(nn.ModuleList(layers))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """[(N, C_i, H_i, W_i)] -> the same shapes, fine to coarse."""
        branches = [blocks(x) for blocks, x in zip(self.branches, branches, strict=True)]
        fused = []
        for target, layers in enumerate(self.fuse_layers):
            assert isinstance(layers, nn.ModuleList)
            size = branches[target].shape[-2:]
            total = None
            for source, layer in enumerate(layers):
                y = layer(branches[source])
                if source > target:
                    # As the authors' segmentation network does it; their classification network
                    # takes the nearest.
                    y = F.interpolate(y, size=size, mode="bilinear", align_corners=True)
                total = y if total is None else total + y
            fused.append(self.relu(total))
        return fused


class HRNet(Backbone):
    """HRNet-W`width`: 9.6 M (W18), 29.3 M (W32) or 65.3 M (W48) parameters.

    Features (name: channels, stride): res2: width, 4; res3: 2 width, 8; res4: 4 width, 16; res5: 8
    width, 32. All come after a ReLU.

    Args:
        width: channels of the finest branch.
        norm: a name that Detectron2's `get_norm` knows, or a function from channels to a layer.
        out_features: which of the features to return.
        num_modules: modules (rounds of exchange) of the four stages; the first stage has one
            branch, so 1.
        num_blocks: residual blocks between two exchanges, and in the first stage.
        stem_channels: channels of the stem; the first stage has 4 times as many.
        freeze_at: 0 freezes nothing, 1 the stem, 2 also the first stage, 3 to 5 the next ones, each
            with the transition before it.

    Raises ValueError for an unknown feature, norm or stage, or numbers that make no network.
    """

    _out_features: list[str]
    # Images should be multiples of this; other sizes work, with features rounded up.
    size_divisibility = 32

    def __init__(
        self,
        *,
        width: int = 48,
        norm: Norm = "SyncBN",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        num_modules: Sequence[int] = (1, 1, 4, 3),
        num_blocks: int = 4,
        stem_channels: int = 64,
        freeze_at: int = 0,
    ):
        super().__init__()
        num_modules = tuple(num_modules)
        if len(num_modules) != 4 or num_modules[0] != 1 or min(num_modules) < 1:
            raise ValueError(
                f"num_modules={num_modules}: four numbers, the first 1, such as (1, 1, 4, 3)"
            )
        if min(width, num_blocks, stem_channels) < 1:
            raise ValueError("width, num_blocks and stem_channels must be at least 1")
        channels = [width * 2**level for level in range(4)]
        features = {
            f"res{level + 2}": ShapeSpec(channels=channels[level], stride=4 * 2**level)
            for level in range(4)
        }
        select_features(self, out_features, features)
        self.conv1 = _conv3x3(3, stem_channels, norm, stride=2)
        self.bn1 = build_norm(norm, stem_channels)
        self.conv2 = _conv3x3(stem_channels, stem_channels, norm, stride=2)
        self.bn2 = build_norm(norm, stem_channels)
        self.relu = nn.ReLU(inplace=True)

        stage1_channels = BOTTLENECK_EXPANSION * stem_channels
        self.layer1 = nn.Sequential(
            *(
                _Bottleneck(stage1_channels if index else stem_channels, stem_channels, norm)
                for index in range(num_blocks)
            )
        )
        # A transition adds the next coarser branch; the first also narrows the finest.
        narrowed = nn.Sequential(
            _conv3x3(stage1_channels, channels[0], norm),
            build_norm(norm, channels[0]),
            nn.ReLU(inplace=True),
        )
        added = _downsample((stage1_channels, channels[1]), norm, last_relu=True)
        self.transition1 = nn.ModuleList([narrowed, added])
        for stage in (2, 3, 4):
            branches = channels[:stage]
            if stage > 2:
                layers: list[nn.Module] = [nn.Identity() for _ in branches[1:]]
                layers.append(_downsample(branches[-2:], norm, last_relu=True))
                self.add_module(f"transition{stage - 1}", nn.ModuleList(layers))
            modules = (
                _HighResolutionModule(branches, num_blocks, norm)
                for _ in range(num_modules[stage - 1])
            )
            self.add_module(f"stage{stage}", nn.Sequential(*modules))
        init_weights(self)
        later = [(f"transition{stage - 1}", f"stage{stage}") for stage in (2, 3, 4)]
        stages = [("conv1", "bn1", "conv2", "bn2"), ("layer1",), *later]
        freeze_stages(self, stages, freeze_at)

    @property
    def recomputable_blocks(self) -> list[nn.Module]:
        """Parts that `train.activation_checkpointing` may run twice; none writes to its input."""
        parts = ("layer1", "stage2", "stage3", "stage4")
        return [block for name in parts for block in self.get_submodule(name).children()]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) normalized images -> {name: (N, C, H/stride, W/stride)}, fine to coarse."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        branches = [self.layer1(x)] * 2
        for stage in (2, 3, 4):
            transition: Any = self.get_submodule(f"transition{stage - 1}")
            # The new branch starts from the coarsest so far.
            branches += branches[-1:] * (len(transition) - len(branches))
            branches = [layer(x) for layer, x in zip(transition, branches, strict=True)]
            branches = self.get_submodule(f"stage{stage}")(branches)
        outputs = dict(zip(("res2", "res3", "res4", "res5"), branches, strict=True))
        return {name: outputs[name] for name in self._out_features}
