"""Cityscapes' average precision: the area under a precision-recall curve, by steps.

It is not COCO's: no precision is replaced by a better one at higher recall, and a step reaches half
way to its neighbours on both sides.
"""

import numpy as np


def average_precision(scores: np.ndarray, true: np.ndarray, num_missed: int) -> float:
    """Average precision of one class at one overlap, in 0..1.

    As evalInstanceLevelSemanticLabeling computes it, for a class that is in the truth. Where all
    its instances are missed and all predictions are ignored, so that there are no scores, that
    script raises IndexError; here it is 0.

    Args:
        scores: (N,) of the predictions that count; only their order matters.
        true: (N,) bool, whether each is right; others are errors.
        num_missed: true instances without any prediction.
    """
    if not len(scores):
        return 0.0
    order = np.argsort(scores)
    _, first = np.unique(scores[order], return_index=True)
    right_below = np.concatenate(([0], np.cumsum(true[order])))[first]
    # At each threshold, the predictions with at least that score.
    right = int(true.sum()) - right_below
    accepted = len(scores) - first
    recall = right / (int(true.sum()) + num_missed)
    # The last point is artificial: nothing accepted, precision 1.
    precision = np.append(right / accepted, 1.0)
    recall = np.concatenate(([recall[0]], recall, [0.0, 0.0]))
    return float(np.dot(precision, 0.5 * (recall[:-2] - recall[2:])))
