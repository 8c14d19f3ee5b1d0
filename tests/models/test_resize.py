"""Maps at the size of the output, with fewer passes and the same numbers.

Shapes: K classes, H W pixels.
"""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling.postprocessing import sem_seg_postprocess
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.postprocess import semantic as module
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
        patch.setattr(module, "STRIDE_ROWS", strip)
        assert torch.equal(argmax_upsampled(logits, stride), whole.argmax(dim=0))
