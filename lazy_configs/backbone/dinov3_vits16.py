"""DINOv3's ViT-S/16 (Simeoni et al. 2025, arXiv:2508.10104), with a pyramid: 24.9 M parameters.

Weights of `backbone.pretrained=true`: LVD-1689M, without labels.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "vit_small_patch16_dinov3.lvd1689m"
