"""ConvNeXt-T (Liu et al. 2022, arXiv:2201.03545), output stride 32: 27.8 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-22k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "convnext_tiny.fb_in22k"
