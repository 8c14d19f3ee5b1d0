"""ResNet-18 (He et al. 2016, arXiv:1512.03385), output stride 32: 11.2 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-1k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "resnet18.a1_in1k"
