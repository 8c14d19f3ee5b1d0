"""Any encoder of timm by name: `backbone=timm backbone.name=convnext_tiny.fb_in22k`.

Needs the extra `timm`. Names are those of `timm.list_models()`, with or without the tag of their
weights, which `backbone.pretrained=true` fetches.
"""

from detectron2.config import LazyCall as L

from panoptic_dl.models.backbones.timm import TimmBackbone

backbone = L(TimmBackbone)(
    name=None,  # such as convnext_tiny.fb_in22k
    pretrained=False,  # true: start from timm's weights
    output_stride=None,  # 8, 16 or 32, where the encoder can; null: its own
    norm="SyncBN",
    freeze_at=0,  # 1: the stem, 2: and res2, ...
    drop_path_rate=0.0,
    out_features=None,
)

# Null: what heads read follows from the strides of the features, pixel statistics are timm's.
_from_strides = dict(in_features=None, project_channels=None, aspp_dilations=None)
decoder = dict(panoptic=_from_strides, semantic=_from_strides)
pixels = dict(mean=None, std=None)
