"""The decoders of `conv` with depthwise separable convolutions, except in the center head.

Two 3x3 convolutions become one separable 5x5 with the same receptive field (arXiv:1911.10194).
"""

from .conv import head

head.use_depthwise_separable_conv = True
