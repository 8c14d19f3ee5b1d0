"""Samples for loggers: shrunk, aligned, with classes that were there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.visualize.sheets import SAMPLE_SIDE, make_sample

DIVISOR = 1000


@given(st.integers(1, 60), st.integers(1, 60))
def test_small_ones_stay_as_they_are(height, width):
    classes = np.arange(height * width).reshape(height, width) % 5 - 1
    panoptic = np.where(classes < 0, -1, classes * DIVISOR + 3)
    image = np.zeros((height, width, 3), np.uint8)
    made = make_sample("x", image, panoptic, panoptic, DIVISOR)
    assert (made.ground_truth == classes).all()
    assert (made.image == image).all()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((1024, 2048), (512, 1024)), ((4000, 1), (1024, 1)), ((7, 3000), (2, 1024))],
)
def test_large_ones_are_shrunk(size, wanted):
    left = np.arange(size[1]) < size[1] // 2
    classes = np.broadcast_to(np.where(left, 2, -1), size)
    image = np.repeat(np.where(left, 250, 10).astype(np.uint8)[None, :, None], 3, 2)
    image = np.broadcast_to(image, (*size, 3)).copy()
    panoptic = np.where(classes < 0, -1, classes * DIVISOR)
    made = make_sample("x", image, panoptic, panoptic[::2, ::2], DIVISOR)
    assert made.image.shape == (*wanted, 3)
    assert max(made.image.shape) <= SAMPLE_SIDE
    assert made.ground_truth.shape == made.prediction.shape == wanted
    assert set(np.unique(made.ground_truth)) <= {-1, 2}
    bright = made.image[..., 0] > 128
    assert (bright == (made.ground_truth == 2)).mean() > 0.99  # maps and image lie on each other
