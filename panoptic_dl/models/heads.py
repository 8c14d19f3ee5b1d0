"""Detectron2's heads from plain arguments, each waiting for the shapes of a backbone.

`functools.partial(semantic_branch, in_features=..., ...)` is what a model takes; it calls
`head(input_shape=backbone.output_shape())`, so that no channel number is written twice.

All three share the decoder of DeepLabV3+ (Chen et al. 2018): ASPP on the coarsest feature, then one
fusion with every finer feature. Its arguments are those of `_decoder_arguments`.

Shapes: N batch, C channels, K classes, H W pixels, of the feature or of the image.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ASPP, Conv2d, ShapeSpec
from detectron2.projects.deeplab import DeepLabV3PlusHead
from detectron2.projects.deeplab.loss import DeepLabCE
from detectron2.projects.panoptic_deeplab.panoptic_seg import (
    PanopticDeepLabInsEmbedHead,
    PanopticDeepLabSemSegHead,
)
from torch import Tensor, nn

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.settings import require_value
from panoptic_dl.models.backbones.layers import Norm, head_norm

# Models pad images to multiples of this (or of a multiple of it), so a crop is at least this coarse
# in its features.
PADDING = 32
LOSSES = ("hard_pixel_mining", "cross_entropy", "focal", "dice")


def semantic_branch(
    input_shape: dict[str, ShapeSpec],
    *,
    num_classes: int,
    decoder_dim: int = 256,
    head_channels: int = 256,
    loss_weight: float = 1.0,
    loss_type: str = "hard_pixel_mining",
    loss_top_k: float = 0.2,
    focal_gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    ignore_value: int = 255,
    **decoder: Any,
) -> PanopticDeepLabSemSegHead:
    """Semantic head of Panoptic-DeepLab (Cheng et al. 2020).

    Args:
        input_shape, decoder_dim, decoder: see `_decoder_arguments`.
        num_classes: stuff and thing classes, K.
        head_channels: channels before the classifier.
        loss_weight: factor of `loss_sem_seg`.
        loss_type: "hard_pixel_mining"; "cross_entropy" or "focal" (Lin et al. 2017), over all
            labeled pixels; or "dice" (Milletari et al. 2016), over the classes of a batch.
        loss_top_k: of hard pixel mining: share of the pixels with the largest loss that count, in
            (0, 1].
        focal_gamma: exponent of the focal loss, at least 1; 0 would be the cross entropy.
        class_weights: a number for each class, which multiplies the losses of its pixels, or its
            Dice loss; None: 1.
        ignore_value: label of pixels that do not count.
    """
    head = PanopticDeepLabSemSegHead(
        **_decoder_arguments(input_shape, decoder_dim=decoder_dim, projection=32, **decoder),
        num_classes=num_classes,
        head_channels=head_channels,
        loss_weight=loss_weight,
        loss_type="hard_pixel_mining",
        loss_top_k=loss_top_k,
        ignore_value=ignore_value,
    )
    _choose_loss(head, loss_type, loss_top_k, focal_gamma, class_weights, num_classes)
    return _finish(head)


def instance_branch(
    input_shape: dict[str, ShapeSpec],
    *,
    decoder_dim: int = 128,
    head_channels: int = 32,
    center_loss_weight: float = 200.0,
    offset_loss_weight: float = 0.01,
    **decoder: Any,
) -> PanopticDeepLabInsEmbedHead:
    """Instance head of Panoptic-DeepLab: center heatmap and offsets.

    Args:
        input_shape, decoder_dim, decoder: see `_decoder_arguments`.
        head_channels: channels before the two predictors.
        center_loss_weight: factor of `loss_center` (mean squared error of the heatmap).
        offset_loss_weight: factor of `loss_offset` (L1 in pixels).
    """
    head = InstanceHead(
        **_decoder_arguments(input_shape, decoder_dim=decoder_dim, projection=32, **decoder),
        head_channels=head_channels,
        center_loss_weight=center_loss_weight,
        offset_loss_weight=offset_loss_weight,
    )
    return _finish(head)


def semantic_head(
    input_shape: dict[str, ShapeSpec],
    *,
    num_classes: int,
    decoder_dim: int = 256,
    loss_weight: float = 1.0,
    loss_type: str = "hard_pixel_mining",
    loss_top_k: float = 0.2,
    focal_gamma: float = 2.0,
    class_weights: Sequence[float] | None = None,
    ignore_value: int = 255,
    **decoder: Any,
) -> DeepLabV3PlusHead:
    """Head of DeepLabV3+ (Chen et al. 2018).

    Args:
        input_shape, decoder_dim, decoder: see `_decoder_arguments`.
        num_classes: number of classes, K.
        loss_weight: factor of `loss_sem_seg`.
        loss_type, loss_top_k, focal_gamma, class_weights: see `semantic_branch`.
        ignore_value: label of pixels that do not count.
    """
    head = DeepLabV3PlusHead(
        **_decoder_arguments(input_shape, decoder_dim=decoder_dim, projection=48, **decoder),
        num_classes=num_classes,
        loss_weight=loss_weight,
        loss_type="hard_pixel_mining",
        ignore_value=ignore_value,
    )
    _choose_loss(head, loss_type, loss_top_k, focal_gamma, class_weights, num_classes)
    return _finish(head)


class InstanceHead(PanopticDeepLabInsEmbedHead):
    """Detectron2's, with losses of the same value for which the host does not wait."""

    def center_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """(N, 1, h, w) heatmaps at the head's stride; targets and weights (N, 1, H, W)."""
        losses = self.center_loss(_upsample(predictions, self.common_stride), targets)
        return {"loss_center": _weighted_mean(losses, weights) * self.center_loss_weight}

    def offset_losses(
        self, predictions: Tensor, targets: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """(N, 2, h, w) offsets in strides; targets (N, 2, H, W) in pixels, weights (N, 1, H, W)."""
        offsets = _upsample(predictions, self.common_stride) * self.common_stride
        losses = self.offset_loss(offsets, targets)
        return {"loss_offset": _weighted_mean(losses, weights) * self.offset_loss_weight}


def _upsample(maps: Tensor, stride: int) -> Tensor:
    return F.interpolate(maps, scale_factor=stride, mode="bilinear", align_corners=False)


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The sum of weighted losses over that of the weights; 0 where all weights are 0."""
    total = weights.sum()
    return (losses * weights).sum() / total.where(total > 0, 1.0)


class Float32Conv2d(Conv2d):
    """Detectron2's convolution, in single precision whatever the autocast.

    Of the last layers. bfloat16 has 8 significant bits: an offset of 900 pixels, as the 225 strides
    that are predicted, would be a multiple of 4 pixels.
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        half = torch.is_autocast_enabled(device)  # without, exported graphs stay as they are
        with torch.autocast(device, enabled=False) if half else nullcontext():
            output: Tensor = super().forward(x.to(self.weight.dtype))
        return output.float()


def class_weights(classes: Classes, weights: Mapping[str, float] | None) -> list[float]:
    """A number for each class, from those of some by name; the others have 1.

    Raises ValueError for a name that no class has, and for what is no number.
    """
    if not isinstance(weights or {}, Mapping):
        raise ValueError(f"class_weights={weights} must be such as {{{classes.names[0]}: 3}}")
    given = dict(weights or {})
    for name, weight in given.items():
        require_value(f"class_weights.{name}", weight, float, least=0)
    if strangers := given.keys() - {*classes.names}:
        raise ValueError(
            f"class_weights: there is no class {', '.join(sorted(strangers))}; the classes are "
            f"{', '.join(classes.names)}; class_weights=null for no weights"
        )
    return [given.get(name, 1.0) for name in classes.names]


def _decoder_arguments(
    input_shape: dict[str, ShapeSpec],
    *,
    in_features: Sequence[str] | None,
    project_channels: Sequence[int] | None,
    aspp_dilations: Sequence[int] | None,
    train_size: Sequence[int] | None,
    decoder_dim: int,
    projection: int,
    aspp_channels: int = 256,
    aspp_dropout: float = 0.1,
    common_stride: int = 4,
    norm: Norm = "SyncBN",
    use_depthwise_separable_conv: bool = False,
) -> dict[str, Any]:
    """Check the decoder's arguments; return them as Detectron2's `DeepLabV3PlusHead` takes them.

    Args:
        in_features: fine to coarse, whatever their order here. None: the last one of each stride.
        project_channels: of each feature but the coarsest, fine to coarse. None: `projection` (32
            in Panoptic-DeepLab, 48 in DeepLabV3+) at stride 4, twice as many at 8, and so on.
        aspp_dilations: three. None: 6, 12 and 18 at stride 16, half of them at 32, and so on.
        train_size: (height, width) of the training crop in pixels, the window of the image pooling;
            None pools globally.
        decoder_dim: channels after every fusion.
        common_stride: of the predictions before they are upsampled; that of the finest feature.
        norm: a name that Detectron2's `get_norm` knows, or a function from channels to a layer.
        use_depthwise_separable_conv: "dsconv": ASPP, decoder and heads except center.
    """
    if in_features is None:
        in_features = [*{shape.stride: name for name, shape in input_shape.items()}.values()]
    names = tuple(in_features)
    missing = [name for name in names if name not in input_shape]
    if missing or not names:
        raise ValueError(
            f"in_features={names} names {missing or 'nothing'}: the backbone returns "
            f"{tuple(input_shape)} (its out_features)"
        )
    strides = {name: input_shape[name].stride for name in names}
    finest, coarsest = min(strides.values()), max(strides.values())
    if project_channels is None:
        project_channels = [projection * s // 4 for s in sorted(strides.values())[:-1]]
    if aspp_dilations is None:
        aspp_dilations = [max(1, rate * 16 // coarsest) for rate in (6, 12, 18)]
    if len(project_channels) != len(names) - 1:
        raise ValueError(
            f"project_channels={tuple(project_channels)} must have one number for each of "
            f"in_features={names} but the coarsest: {len(names) - 1}"
        )
    if len(aspp_dilations) != 3:
        raise ValueError(f"aspp_dilations={tuple(aspp_dilations)} must be three numbers")
    if common_stride != finest:
        raise ValueError(
            f"common_stride={common_stride} must be the stride of the finest of in_features, "
            f"{finest} ({strides}): head.common_stride={finest}"
        )
    if train_size is not None:  # the padded crop, which the image pooling spans in training
        multiple = math.lcm(PADDING, coarsest)
        train_size = tuple(math.ceil(side / multiple) * multiple for side in train_size)
    return {
        "input_shape": {name: input_shape[name] for name in names},
        "project_channels": list(project_channels),
        "aspp_dilations": list(aspp_dilations),
        "aspp_dropout": aspp_dropout,
        "decoder_channels": [decoder_dim] * (len(names) - 1) + [aspp_channels],
        "common_stride": common_stride,
        "norm": head_norm(norm),
        "train_size": train_size,
        "use_depthwise_separable_conv": use_depthwise_separable_conv,
    }


class ClampedAvgPool2d(nn.Module):
    """Mean over a window that slides with stride 1 and is never larger than the input.

    For inputs at least as large as `kernel_size`, (height, width), `nn.AvgPool2d` bit for bit.
    """

    def __init__(self, kernel_size: tuple[int, int]):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, max(1, H - height + 1), max(1, W - width + 1))."""
        height, width = self.kernel_size
        if torch.compiler.is_exporting():  # a graph for all sizes needs a window of one size
            rows: Any = torch.sym_min(height, x.shape[-2])
            columns: Any = torch.sym_min(width, x.shape[-1])
            padded = F.pad(x, (0, width - columns, 0, height - rows))
            share: Any = height * width / (rows * columns)
            return F.avg_pool2d(padded, (height, width), stride=1).mul(share)
        window = (min(height, x.shape[-2]), min(width, x.shape[-1]))
        return F.avg_pool2d(x, window, stride=1)


def _finish(head: Any) -> Any:
    """Let `head` predict in single precision and take any feature size, in place.

    Every ASPP cuts its window to the feature; Detectron2 raises unless the feature is a multiple of
    the training crop's size.
    """
    for name, layer in head.named_children():
        if name.endswith("predictor"):
            layer.__class__ = Float32Conv2d  # its weights were drawn already
    for aspp in head.modules():
        if isinstance(aspp, ASPP) and aspp.pool_kernel_size is not None:
            pooling = aspp.convs[-1]
            assert isinstance(pooling, nn.Sequential)
            assert isinstance(pooling[0], nn.AvgPool2d)
            height, width = aspp.pool_kernel_size
            pooling[0] = ClampedAvgPool2d((height, width))
            aspp.pool_kernel_size = None  # ASPP checks divisibility only where this is set
    return head


def _choose_loss(
    head: Any,
    loss_type: str,
    loss_top_k: float,
    focal_gamma: float,
    class_weights: Sequence[float] | None,
    num_classes: int,
) -> None:
    """Give a head its loss. That of DeepLabV3+ always mines 20 % in Detectron2, and its cross
    entropy does not take the weights of pixels.

    Raises ValueError for a loss that is none, and for numbers that do not fit.
    """
    require_value("loss_type", loss_type, str, LOSSES)
    require_value("loss_top_k", loss_top_k, float, above=0, most=1)
    require_value("focal_gamma", focal_gamma, float, least=1)
    weights = None
    if class_weights is not None:
        weights = torch.tensor([*class_weights], dtype=torch.float32)
        if len(weights) != num_classes or not (weights.isfinite() & (weights >= 0)).all():
            raise ValueError(f"class_weights must be {num_classes} numbers, at least 0")
    if loss_type == "hard_pixel_mining":
        head.loss = DeepLabCE(head.ignore_value, loss_top_k)
        head.loss.criterion.register_buffer("weight", weights, persistent=False)
    elif loss_type == "dice":
        head.loss = _DiceLoss(head.ignore_value, weights)
    else:
        gamma = focal_gamma if loss_type == "focal" else 0.0
        head.loss = _WeightedCrossEntropy(head.ignore_value, gamma, weights)


class _WeightedCrossEntropy(nn.Module):
    """Mean cross entropy (gamma 0) or focal loss of the labeled pixels, each times its weight.

    Same call as Detectron2's `DeepLabCE`. Without weights of pixels it equals
    `nn.CrossEntropyLoss(class_weights, ignore_index=ignore_value)`, except that a batch without
    labels gives 0 instead of nan. `class_weights` (K,) are no part of the state.
    """

    class_weights: Tensor | None

    def __init__(self, ignore_value: int, gamma: float = 0.0, class_weights: Tensor | None = None):
        super().__init__()
        self.ignore_value, self.gamma = ignore_value, gamma
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """(N, K, H, W) logits, (N, H, W) int64 labels and (N, H, W) weights -> scalar."""
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignore_value, reduction="none")
        if self.gamma:
            losses = losses * (1 - torch.exp(-losses)) ** self.gamma
        if weights is not None:
            losses = losses * weights
        labeled = labels != self.ignore_value
        if self.class_weights is None:
            return losses.sum() / labeled.sum().clamp(min=1)
        of_classes = self.class_weights[labels * labeled] * labeled
        return (losses * of_classes).sum() / of_classes.sum().clamp(min=1e-6)


class _DiceLoss(nn.Module):
    """Mean of 1 - Dice over the classes that the labels of a batch have (Milletari et al. 2016).

    Dice = 2 sum(p t) / (sum(p) + sum(t)) over all labeled pixels, each times its weight. Arguments
    and call are those of `_WeightedCrossEntropy`.
    """

    class_weights: Tensor | None

    def __init__(self, ignore_value: int, class_weights: Tensor | None = None):
        super().__init__()
        self.ignore_value = ignore_value
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """(N, K, H, W) logits, (N, H, W) int64 labels and (N, H, W) weights -> scalar."""
        labeled = labels != self.ignore_value
        scale = labeled if weights is None else labeled * weights
        found = logits.float().softmax(1) * scale[:, None]
        classes = labels * labeled  # pixels without a label add 0
        of_pixel = found.gather(1, classes[:, None])[:, 0]  # of its own class
        count = logits.shape[1]

        def by_class(values: Tensor) -> Tensor:
            return values.new_zeros(count).index_add(0, classes.flatten(), values.flatten())

        targets = by_class(scale.to(found.dtype))
        dice = 2 * by_class(of_pixel) / (found.sum((0, 2, 3)) + targets).clamp(min=1e-6)
        present = (targets > 0).to(dice.dtype)
        if self.class_weights is not None:
            present = present * self.class_weights
        return ((1 - dice) * present).sum() / present.sum().clamp(min=1e-6)
