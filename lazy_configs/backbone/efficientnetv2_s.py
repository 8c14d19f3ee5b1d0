"""EfficientNetV2-S (Tan & Le 2021, arXiv:2104.00298), output stride 32: 19.8 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-21k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "tf_efficientnetv2_s.in21k"
