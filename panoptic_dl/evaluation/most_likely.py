"""The class with the highest score in each pixel, of scores that fit the dataset.

Shapes: K classes, H W pixels.
"""

import numpy as np
from torch import Tensor

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.postprocess import most_likely_class


def most_likely(scores: Tensor, num_classes: int) -> np.ndarray:
    """Classes of the highest scores, (H, W) int64, the first of equal ones.

    Args:
        scores: (K, H, W), on any device.
        num_classes: K as it must be.

    Raises:
        EvaluationError: there are not as many scores as classes.
    """
    if scores.ndim != 3 or len(scores) != num_classes:
        raise EvaluationError(
            f"sem_seg is {tuple(scores.shape)}, not ({num_classes}, height, width): one score for "
            "each class of the dataset"
        )
    return most_likely_class(scores).cpu().numpy()
