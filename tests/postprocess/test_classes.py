"""The class map of logits, against `argmax`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.postprocess import argmax_classes


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 70), st.integers(1, 9)),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    seed=st.integers(0, 999),
)
def test_the_first_of_equal_logits(shape, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-levels, levels + 1, shape, generator=generator).float()
    classes = argmax_classes(logits)
    assert classes.dtype == torch.int64
    assert torch.equal(classes, logits.argmax(dim=0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -0.0])
def test_values_without_order(value):
    logits = torch.randn(6, 40, 8)
    logits[2, 3:5] = value
    logits[4, 4:7] = value
    assert torch.equal(argmax_classes(logits), logits.argmax(dim=0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_and_many_classes(dtype):
    logits = torch.randn(300, 5, 6)
    assert torch.equal(argmax_classes(logits), logits.argmax(dim=0))
    logits = logits.to(dtype)
    assert torch.equal(argmax_classes(logits), logits.argmax(dim=0))


def test_views_and_gradients():
    logits = torch.randn(5, 40, 50, requires_grad=True)
    view = logits[:, :30, 3:41]
    assert torch.equal(argmax_classes(view), view.argmax(dim=0))
