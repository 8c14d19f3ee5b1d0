"""Image pooling of Detectron2's ASPP (Chen et al. 2017, section 3.3) for images of any size.

In training the pooling sees the whole crop. At other sizes Detectron2 pools with windows of the
crop's size, and raises unless the feature is a multiple of the window. Here the window is cut to
the feature instead.

Legend: N batch, C channels, H W feature pixels.
"""

import torch.nn.functional as F
from detectron2.layers import ASPP
from torch import Tensor, nn


class ClampedAvgPool2d(nn.Module):
    """Mean over a window that slides with stride 1 and is never larger than the input.

    For inputs at least as large as the window, `nn.AvgPool2d(kernel_size, stride=1)` bit for bit.

    Args:
        kernel_size: (height, width) of the window in feature pixels.
    """

    def __init__(self, kernel_size: tuple[int, int]):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, max(1, H - height + 1), max(1, W - width + 1))."""
        height, width = self.kernel_size
        window = (min(height, x.shape[-2]), min(width, x.shape[-1]))
        return F.avg_pool2d(x, window, stride=1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}"


def accept_any_size(head: nn.Module) -> nn.Module:
    """Let every ASPP below `head` take any feature size, in place; no parameter changes."""
    for aspp in head.modules():
        if isinstance(aspp, ASPP) and aspp.pool_kernel_size is not None:
            pooling = aspp.convs[-1]
            assert isinstance(pooling, nn.Sequential)
            assert isinstance(pooling[0], nn.AvgPool2d)
            height, width = aspp.pool_kernel_size
            pooling[0] = ClampedAvgPool2d((height, width))
            aspp.pool_kernel_size = None  # ASPP checks divisibility only where this is set
    return head
