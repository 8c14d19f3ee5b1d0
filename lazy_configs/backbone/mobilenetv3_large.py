"""MobileNetV3-L (Howard et al. 2019, arXiv:1905.02244), output stride 32: 3.0 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-1k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "mobilenetv3_large_100.ra_in1k"
