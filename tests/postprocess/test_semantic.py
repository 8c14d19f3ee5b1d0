"""Maps at the size of the output, and their classes: fewer passes, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.postprocess import argmax_classes, semantic
from panoptic_dl.postprocess.semantic import argmax_upsampled, resize


@pytest.mark.parametrize("output", [(30, 40), (60, 80), (17, 93)])
def test_equals_detectron2s_resizing(output):
    maps = torch.randn(5, 32, 64)
    ours = resize(maps, (30, 40), *output)
    assert torch.equal(ours, sem_seg_postprocess(maps, (30, 40), *output))


def test_copies_nothing_where_nothing_is_scaled():
    maps = torch.randn(5, 32, 64)
    assert resize(maps, (30, 40), 30, 40).data_ptr() == maps.data_ptr()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 12),
    stride=st.sampled_from([1, 2, 4, 8]),
    strip=st.integers(1, 17),
    levels=st.sampled_from([2, 1000]),
    seed=st.integers(0, 999),
)
def test_strips_give_the_classes_of_the_whole(rows, columns, stride, strip, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (6, rows, columns), generator=generator).float()
    whole = F.interpolate(logits[None], scale_factor=stride, mode="bilinear", align_corners=False)[
        0
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(semantic.ENTRIES, "cpu", strip * 6 * columns * stride)
        assert torch.equal(argmax_upsampled(logits, stride), whole.argmax(dim=0))


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
