"""ResNet-50 (He et al. 2016, arXiv:1512.03385), output stride 16 by dilation: 23.5 M parameters.

Weights of `backbone.pretrained=true`: ImageNet-1k.
"""

from .timm import backbone, decoder, pixels

__all__ = ["backbone", "decoder", "pixels"]

backbone.name = "resnet50.a1_in1k"
backbone.output_stride = 16
