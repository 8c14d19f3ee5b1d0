"""Scores of another number of classes are refused; the rest is `argmax_classes`'s."""

import pytest
import torch

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.semantic import predicted_labels


def test_scores_must_fit_the_dataset():
    scores = torch.randn(5, 20, 30)
    assert (predicted_labels(scores, 5) == scores.argmax(dim=0).numpy()).all()
    for wrong in (torch.zeros(4, 2, 2), torch.zeros(5, 2)):
        with pytest.raises(EvaluationError, match="one score for each class"):
            predicted_labels(wrong, 5)


def test_scores_that_are_no_numbers_are_refused():
    for place in (0, 3):
        scores = torch.randn(5, 20, 30)
        scores[place, 7, 7] = torch.nan
        with pytest.raises(EvaluationError, match="not a number"):
            predicted_labels(scores, 5)
    assert predicted_labels(torch.full((2, 3, 4), torch.inf), 2).max() == 0


def test_classes_outside_mean_none():
    classes = torch.tensor([[0, 4, 5], [-1, 255, 2]])
    assert predicted_labels(classes, 5).tolist() == [[0, 4, 5], [5, 5, 2]]
