"""ResNet-103 of DeepLab (Chen et al. 2017, arXiv:1706.05587), output stride 16: 42.6 M parameters.

ImageNet weights: `R-103.pkl` of Detectron2's model zoo, a ResNet-101 whose first 7x7 convolution
became three of 3x3.
"""

from .resnet52 import backbone, decoder, pixels, pretrained

__all__ = ["backbone", "decoder", "pixels", "pretrained"]

backbone.depth = 101
pretrained.file = "R-103.pkl"
pretrained.source = "Detectron2's model zoo, detectron2://DeepLab/R-103.pkl"
