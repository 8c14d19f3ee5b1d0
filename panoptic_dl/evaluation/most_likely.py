"""The class of each pixel, from scores or classes that fit the dataset.

Shapes: K classes, H W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.postprocess import most_likely_class


def most_likely(scores: Tensor, num_classes: int) -> np.ndarray:
    """Classes of the highest scores, (H, W) int16, the first of equal ones; K where there is none.

    Small numbers, for predictions wait to be compared.

    Args:
        scores: (K, H, W), on any device; or classes themselves, (H, W) integers, of which all that
            are outside 0..K-1 mean that the pixel has none.
        num_classes: K as it must be.

    Raises:
        EvaluationError: there are not as many scores as classes, or one is not a number.
    """
    if scores.ndim == 2 and not scores.is_floating_point():
        classes = scores.cpu().numpy().astype(np.int64)
        classes[(classes < 0) | (classes >= num_classes)] = num_classes
        return classes.astype(np.int16)
    if scores.ndim != 3 or len(scores) != num_classes:
        raise EvaluationError(
            f"sem_seg is {tuple(scores.shape)}, not ({num_classes}, height, width): one score for "
            "each class of the dataset, nor classes of (height, width)"
        )
    if torch.isnan(scores.max()):
        raise EvaluationError("a score of sem_seg is not a number: the network has diverged")
    return most_likely_class(scores).to(torch.int16).cpu().numpy()
