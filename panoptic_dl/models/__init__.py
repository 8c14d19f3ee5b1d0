"""Meta-architectures and heads that take explicit arguments; backbones are passed in."""

from panoptic_dl.models.deeplab_v3plus import DeepLabV3Plus
from panoptic_dl.models.heads import instance_branch, semantic_branch, semantic_head
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab

__all__ = [
    "DeepLabV3Plus",
    "PanopticDeepLab",
    "instance_branch",
    "semantic_branch",
    "semantic_head",
]
