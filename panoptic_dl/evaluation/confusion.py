"""How often each class was predicted where another is true.

Shapes: H W pixels, R true classes, C predicted classes.
"""

import numpy as np

from panoptic_dl.evaluation.figures import EvaluationError


def count_confusions(
    truth: np.ndarray, predicted: np.ndarray, num_true: int, num_predicted: int
) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        truth: (H, W) classes 0..R-1.
        predicted: (H, W) classes 0..C-1.
        num_true, num_predicted: R and C.

    Returns:
        (R, C) int64; row: true class, column: predicted class.

    Raises:
        EvaluationError: sizes differ, or a class of the truth is outside.
    """
    if truth.shape != predicted.shape:
        raise EvaluationError(
            f"the prediction is {predicted.shape}, the truth {truth.shape} (height, width): "
            "predict at the size of the image file"
        )
    truth = truth.reshape(-1).astype(np.int64, copy=False)
    if truth.size and not (truth.min() >= 0 and truth.max() < num_true):
        strangers = np.unique(truth[(truth < 0) | (truth >= num_true)]).tolist()
        raise EvaluationError(f"unknown label with id {strangers[0]}, outside 0..{num_true - 1}")
    pairs = truth * num_predicted
    pairs += predicted.reshape(-1)
    return np.bincount(pairs, minlength=num_true * num_predicted).reshape(num_true, num_predicted)
