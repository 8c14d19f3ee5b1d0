"""What backbones and heads share: normalization by name, initial weights, choice of features.

Shapes: N batch, C channels, H W pixels.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import nn

# A name that Detectron2's `get_norm` knows, or a function from a number of channels to a layer.
Norm = str | Callable[[int], nn.Module] | None


def _group_norm(num_channels: int) -> nn.GroupNorm:
    """Group normalization (Wu & He 2018), at most 32 groups: Detectron2's raises for 48 or 728."""
    return nn.GroupNorm(math.gcd(32, num_channels), num_channels)


def build_norm(norm: Norm, num_channels: int) -> nn.Module:
    """The normalization layer for `num_channels` channels; the identity for "" or None.

    "GN" is `_group_norm`. Raises ValueError for a name that Detectron2's `get_norm` does not know.
    """
    if norm == "GN":
        return _group_norm(num_channels)
    try:
        layer = get_norm(norm, num_channels)
    except KeyError:
        known = "BN, SyncBN, FrozenBN, GN, LN, nnSyncBN, naiveSyncBN, naiveSyncBN_N or '' (none)"
        raise ValueError(f"norm={norm!r} is unknown: choose {known}") from None
    return nn.Identity() if layer is None else layer


def head_norm(norm: Norm) -> str | Callable[[int], nn.Module]:
    """Return `norm` as Detectron2's heads take it: "" where there is none, `_group_norm` for "GN".

    Raises ValueError for a name that Detectron2's `get_norm` does not know.
    """
    if norm is None:
        return ""
    if norm == "GN":
        return _group_norm
    if isinstance(norm, str):
        build_norm(norm, 1)  # raises
    return norm


def init_weights(backbone: nn.Module) -> None:
    """Prepare all convolutions for training from scratch (He et al. 2015, by fan-out).

    Normal with variance 2 / (kernel area * output channels / groups), so that gradients keep their
    size through ReLUs; biases 0. Normalization layers start at scale 1 and shift 0 by themselves.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            # PyTorch's kaiming_normal_ forgets the groups: depthwise kernels would
            # start too small by a factor of the root of their channels.
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def check_features(out_features: Iterable[str], available: Iterable[str]) -> tuple[str, ...]:
    """Return names of features; ValueError for one that is not available, or for none."""
    names, there = tuple(out_features), tuple(available)
    unknown = [name for name in names if name not in there]
    if unknown or not names:
        raise ValueError(
            f"out_features={names} names {unknown or 'nothing'}: this backbone has {there}"
        )
    return names


def select_features(
    backbone: Backbone, out_features: Iterable[str], available: Mapping[str, ShapeSpec]
) -> None:
    """Let `backbone.output_shape()` have `out_features`, in the order of `available`.

    Raises ValueError if a name is not in `available`, or if there is none.
    """
    names = check_features(out_features, available)
    backbone._out_features = [name for name in available if name in names]
    backbone._out_feature_channels = {name: available[name].channels for name in available}
    backbone._out_feature_strides = {name: available[name].stride for name in available}


def freeze_stages(backbone: nn.Module, stages: Sequence[Sequence[str]], freeze_at: int) -> None:
    """Freeze the first `freeze_at` stages, as Detectron2 does: 1 is the stem, 2 also res2, ...

    `stages` are the names of the modules of each; ValueError if there are fewer.
    """
    if freeze_at not in range(len(stages) + 1):
        raise ValueError(
            f"freeze_at={freeze_at}: choose 0 (nothing), 1 (the stem) to {len(stages)} (all of it)"
        )
    parts = {name for stage in stages[:freeze_at] for name in stage}
    freeze(backbone, [n for n, _ in backbone.named_modules() if n.partition(".")[0] in parts])


def freeze(
    network: nn.Module,
    names: Iterable[str],
    freeze_norm: Callable[[nn.Module], nn.Module] = FrozenBatchNorm2d.convert_frozen_batchnorm,
) -> None:
    """Freeze the own parameters of modules, and batch normalization with its statistics.

    Args:
        names: of the modules in the network; those inside of them are named, too.
        freeze_norm: from a layer of batch normalization to a frozen one.
    """
    for name in names:
        module = network.get_submodule(name)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = False
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            network.set_submodule(name, freeze_norm(module))
