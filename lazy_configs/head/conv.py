"""Decoders of plain convolutions: Panoptic-DeepLab (arXiv:1911.10194), DeepLabV3+ (1802.02611).

`panoptic.semantic` and `panoptic.instance` are Panoptic-DeepLab's two branches, `semantic` is
DeepLabV3+'s head; the task picks. Each waits (`_partial_`) for the backbone's output shape. Which
features a decoder reads, and how wide it projects them, comes with the backbone (`decoder`).
"""

from detectron2.config import LazyCall as L

from panoptic_dl.models.heads import instance_branch, semantic_branch, semantic_head

_common = dict(
    _partial_=True,
    norm="${head.norm}",
    common_stride="${head.common_stride}",
    aspp_channels="${head.aspp_channels}",
    aspp_dropout="${head.aspp_dropout}",
    use_depthwise_separable_conv="${head.use_depthwise_separable_conv}",
    # Image pooling averages over what the crop is at the deepest feature, in tests too.
    train_size="${dataset.crop_size}",
)
_panoptic = dict(
    in_features="${decoder.panoptic.in_features}",
    project_channels="${decoder.panoptic.project_channels}",
    aspp_dilations="${decoder.panoptic.aspp_dilations}",
)
_semantic_loss = dict(
    loss_type="hard_pixel_mining",  # cross_entropy, focal or dice: see the group loss
    loss_top_k="${dataset.loss_top_k}",
    loss_weight=1.0,  # weight of the semantic loss
    ignore_value="${dataset.ignore_label}",
    num_classes="${dataset.num_classes}",
)

head = dict(
    norm="SyncBN",  # normalization: SyncBN, BN, GN, FrozenBN, ...
    common_stride=4,  # stride of the finest feature that is read, and of the outputs
    aspp_channels=256,  # channels of atrous spatial pyramid pooling
    aspp_dropout=0.1,  # share of its outputs that are dropped in training
    use_depthwise_separable_conv=False,  # separable convolutions, as head=dsconv
    panoptic=dict(
        semantic=L(semantic_branch)(
            **_common,
            **_panoptic,
            **_semantic_loss,
            decoder_dim=256,  # channels of the decoder
            head_channels=256,  # channels of the last layers
        ),
        instance=L(instance_branch)(
            **_common,
            **_panoptic,
            decoder_dim=128,
            head_channels=32,
            center_loss_weight=200.0,  # weight of the loss of the heatmap of centers
            offset_loss_weight=0.01,  # weight of the loss of the offsets
        ),
    ),
    semantic=L(semantic_head)(
        **_common,
        **_semantic_loss,
        decoder_dim=256,
        in_features="${decoder.semantic.in_features}",
        project_channels="${decoder.semantic.project_channels}",
        aspp_dilations="${decoder.semantic.aspp_dilations}",
    ),
)
