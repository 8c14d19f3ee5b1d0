"""Swin-T (Liu et al. 2021, arXiv:2103.14030) at any size, output stride 32: 27.5 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-1k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "swin_tiny_patch4_window7_224.ms_in1k"
