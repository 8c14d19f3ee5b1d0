"""Scores of another number of classes are refused; the rest is `most_likely_class`'s."""

import pytest
import torch

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.most_likely import most_likely


def test_scores_must_fit_the_dataset():
    scores = torch.randn(5, 20, 30)
    assert (most_likely(scores, 5) == scores.argmax(dim=0).numpy()).all()
    for wrong in (torch.zeros(4, 2, 2), torch.zeros(5, 2)):
        with pytest.raises(EvaluationError, match="one score for each class"):
            most_likely(wrong, 5)
