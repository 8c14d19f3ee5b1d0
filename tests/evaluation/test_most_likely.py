"""The most likely class is what torch's argmax says, for any scores."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.most_likely import ROWS, most_likely

values = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, np.inf, -np.inf])
shapes = st.tuples(st.integers(1, 6), st.integers(1, 2 * ROWS + 3), st.integers(1, 4))


@given(arrays.arrays(np.float32, shapes, elements=values), st.booleans())
def test_as_argmax(scores, with_nan):
    if with_nan:
        scores[-1, -1, -1] = np.nan
    tensor = torch.from_numpy(scores)
    assert (most_likely(tensor, len(scores)) == tensor.argmax(dim=0).numpy()).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64])
def test_other_types(dtype):
    scores = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0)).mul(9).to(dtype)
    assert (most_likely(scores, 5) == scores.argmax(dim=0).numpy()).all()


def test_scores_that_require_grad_and_are_not_contiguous():
    scores = torch.randn(40, 3, 5, requires_grad=True).permute(2, 0, 1)
    assert (most_likely(scores, 5) == scores.argmax(dim=0).numpy()).all()


@pytest.mark.parametrize("num_classes", [256, 257])
def test_many_classes(num_classes):
    scores = torch.zeros(num_classes, 2, 2)
    scores[-1] = 1
    assert (most_likely(scores, num_classes) == num_classes - 1).all()


def test_a_missing_class_is_an_error():
    with pytest.raises(EvaluationError, match=r"sem_seg is \(4, 2, 2\), not \(5, height, width\)"):
        most_likely(torch.zeros(4, 2, 2), 5)
