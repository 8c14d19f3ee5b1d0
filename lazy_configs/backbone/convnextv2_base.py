"""ConvNeXt V2-B (Woo et al. 2023, arXiv:2301.00808), output stride 32: 87.7 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-22k, then 1k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "convnextv2_base.fcmae_ft_in22k_in1k"
