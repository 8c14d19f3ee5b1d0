"""ResNets with DeepLab's stem of three 3x3 convolutions and its dilations (Chen et al. 2017).

Detectron2's own builder makes them; parameter names are those of its R-52.pkl and R-103.pkl.
"""

from collections.abc import Sequence
from types import SimpleNamespace

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import ResNet
from detectron2.projects.deeplab.resnet import build_resnet_deeplab_backbone

from panoptic_dl.models.backbones.layers import build_norm, check_features

FEATURES = ("res2", "res3", "res4", "res5")
DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}  # of res4 and res5, by output stride


def deeplab_resnet(
    *,
    depth: int,
    norm: str = "SyncBN",
    output_stride: int = 16,
    res5_multi_grid: Sequence[int] = (1, 2, 4),
    out_features: Sequence[str] = ("res2", "res3", "res5"),
    freeze_at: int = 0,
) -> ResNet:
    """ResNet-52, 103 or 154: 50, 101 or 152 layers, whose first has become three.

    Features (name: channels, stride): res2: 256, 4; res3: 512, 8; res4: 1024, 16; res5: 2048, 32;
    strides are at most `output_stride`.

    Args:
        depth: 50, 101 or 152.
        norm: a name that Detectron2's `get_norm` knows.
        output_stride: 8, 16 or 32; DC5, as in the published rows, is 16.
        res5_multi_grid: dilations of the blocks of res5, over its own.
        out_features: which of the features to return.
        freeze_at: 0 freezes nothing, 1 the stem, 2 also res2, and so on.

    Raises ValueError for an unknown feature, norm, depth or stride.
    """
    build_norm(norm, 32)  # raises
    check_features(out_features, FEATURES)
    if depth not in (50, 101, 152) or output_stride not in DILATIONS:
        raise ValueError("choose depth 50, 101 or 152, and output_stride 8, 16 or 32")
    res4_dilation, res5_dilation = DILATIONS[output_stride]
    resnets = SimpleNamespace(
        DEPTH=depth,
        NORM=norm,
        OUT_FEATURES=sorted(out_features),
        RES4_DILATION=res4_dilation,
        RES5_DILATION=res5_dilation,
        RES5_MULTI_GRID=res5_multi_grid,
        STEM_TYPE="deeplab",
        STEM_OUT_CHANNELS=128,
        STRIDE_IN_1X1=False,
        RES2_OUT_CHANNELS=256,
        NUM_GROUPS=1,
        WIDTH_PER_GROUP=64,
        DEFORM_ON_PER_STAGE=[False] * 4,
        DEFORM_MODULATED=False,
        DEFORM_NUM_GROUPS=1,
    )
    model = SimpleNamespace(BACKBONE=SimpleNamespace(FREEZE_AT=freeze_at), RESNETS=resnets)
    backbone: ResNet = build_resnet_deeplab_backbone(
        SimpleNamespace(MODEL=model), ShapeSpec(channels=3)
    )
    # For `train.activation_checkpointing`
    backbone.recomputable_blocks = [block for stage in backbone.stages for block in stage]
    return backbone
