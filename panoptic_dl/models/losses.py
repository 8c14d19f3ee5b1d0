"""The one loss that Detectron2's heads lack.

Legend: N batch, K classes, H W pixels.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class WeightedCrossEntropy(nn.Module):
    """Mean cross entropy of the labelled pixels, each multiplied by its weight.

    Same call as Detectron2's `DeepLabCE`. Without weights it equals
    `nn.CrossEntropyLoss(ignore_index=ignore_value)`, except that a batch without labels gives 0
    instead of nan.

    Args:
        ignore_value: label of pixels that do not count.
    """

    def __init__(self, ignore_value: int):
        super().__init__()
        self.ignore_value = ignore_value

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """(N, K, H, W) logits, (N, H, W) int64 labels and (N, H, W) weights -> scalar."""
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignore_value, reduction="none")
        if weights is not None:
            losses = losses * weights
        return losses.sum() / (labels != self.ignore_value).sum().clamp(min=1)
