"""HRNet-W18 (Wang et al. 2020, arXiv:1908.07919), output stride 32: 9.6 M parameters.

ImageNet weights: `hrnetv2_w18_imagenet_pretrained.pth` of the authors' repository
HRNet-Image-Classification. No published row uses it: a lighter `hrnet48` with the same decoders.
"""

from .hrnet48 import backbone, decoder, pixels, pretrained

__all__ = ["backbone", "decoder", "pixels", "pretrained"]

backbone.width = 18
pretrained.file = "hrnetv2_w18_imagenet_pretrained.pth"
