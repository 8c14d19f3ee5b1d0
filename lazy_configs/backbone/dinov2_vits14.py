"""DINOv2's ViT-S/14 (Oquab et al. 2023, arXiv:2304.07193), with a pyramid: 25.4 M parameters.

Weights of `backbone.pretrained=true`: LVD-142M, without labels.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "vit_small_patch14_dinov2.lvd142m"
