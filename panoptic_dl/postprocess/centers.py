"""Object centres: the peaks of a heatmap (Cheng et al., CVPR 2020, section 3.3).

Legend: H W pixels, M peaks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def find_peaks(heatmap: Tensor, threshold: float, nms_kernel: int) -> Tensor:
    """Return where a centre may be: (H, W) bool.

    A peak is above `threshold`, above 0, and the largest value of the window around it; a plateau
    has as many peaks as pixels. Windows that hold a NaN have none.

    Args:
        heatmap: (H, W) floating point.
        nms_kernel: side of the window in pixels, odd.
    """
    largest = window_max(window_max(heatmap, nms_kernel, dim=0), nms_kernel, dim=1)
    return (heatmap == largest) & (heatmap > threshold) & (heatmap > 0)


def window_max(values: Tensor, size: int, dim: int) -> Tensor:
    """The maximum over the `size` values around each one along `dim` of an (H, W) tensor.

    Maxima of two neighbours make those of four, eight, ...: log2(size) passes instead of `size`.
    """
    margin = [0, 0, 0, 0]  # left, right, top, bottom
    margin[2 - 2 * dim] = margin[3 - 2 * dim] = size // 2
    values = F.pad(values, margin, value=float("-inf"))
    width = 1  # each value is the maximum of `width` original ones, from its own place on
    while width < size:
        step = min(width, size - width)
        length = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
        width += step
    return values


def above_kth(scores: Tensor, top_k: int) -> Tensor:
    """Which of the M peaks are above the `top_k`-th largest: (M,) bool, for M >= top_k.

    The comparison is exclusive, as in Detectron2: fewer than `top_k` remain, and of equal scores
    that straddle the limit none.
    """
    return scores > scores.topk(top_k).values[-1]
