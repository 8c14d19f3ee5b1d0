"""The number of forward passes of a step, and the arrangements that cannot be."""

import pytest

from panoptic_dl.data.loader import accumulation


@pytest.mark.parametrize(
    ("batch_size", "num_processes", "images_per_gpu", "accumulate", "wanted"),
    [
        (32, 8, 4, None, 1),
        (32, 4, 4, None, 2),
        (32, 2, 4, None, 4),
        (32, 1, 4, None, 8),
        (64, 8, 4, None, 2),
        (64, 8, 8, None, 1),
        (16, 8, 4, None, 1),  # fewer than fit
        (32, 1, None, None, 1),
        (32, 2, None, 4, 4),
        (1, 1, 1, None, 1),
    ],
)
def test_the_global_batch_is_kept(batch_size, num_processes, images_per_gpu, accumulate, wanted):
    found = accumulation(batch_size, num_processes, images_per_gpu, accumulate)
    assert found == wanted
    each = batch_size / num_processes / found
    assert each == int(each)
    assert images_per_gpu is None or each <= images_per_gpu


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((32, 1, 4, 8), "say the same"),
        ((32, 1, 3, None), r"images_per_gpu=3 at a time: choose 1, 2, 4, 8, 16 or 32"),
        ((32, 2, None, 3), r"accumulate=3 equal parts: choose 1, 2, 4, 8 or 16"),
        ((3, 2, None, None), "a batch of 3 images cannot be shared evenly.*fits is 4"),
        ((32, 1, 0, None), "images_per_gpu=0"),
        ((32, 1, None, 1.5), "accumulate=1.5"),
        ((32, 1, True, None), "images_per_gpu=True"),
        ((2, 1, None, 4), r"choose 1 or 2"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(numbers, message):
    with pytest.raises(ValueError, match=message):
        accumulation(*numbers)
