"""The order of samples: every image once in an epoch, to be taken up anywhere."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.data.sample_order import SampleOrder


def draws(order, count):
    return list(itertools.islice(order, count))


@given(
    num_images=st.integers(1, 9),
    shapes=st.lists(st.booleans(), min_size=9, max_size=9),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    taken=st.integers(0, 12),
)
@settings(max_examples=60, deadline=None)
def test_an_order_goes_on_with_groups_of_another_size(num_images, shapes, sizes, taken):
    """Every position comes once, whatever the sizes; the same size repeats the same groups."""
    shapes = shapes[:num_images]
    whole = SampleOrder(num_images, sizes[0], 5, shapes)
    before = draws(whole, taken)
    state = json.loads(json.dumps(whole.state_dict()))
    for size in sizes:
        other = SampleOrder(num_images, size, 5, shapes)
        other.load_state_dict(state)
        after = draws(other, 8)
        if size == sizes[0]:
            copy = SampleOrder(num_images, size, 5, shapes)
            assert draws(copy, taken + 8) == before + after
        positions = [p for group in before + after for _, p in group]
        waiting = [p for _, p in other.state_dict()["waiting"]]
        assert sorted(positions + waiting) == list(range(len(positions) + len(waiting)))
        assert all(len({shapes[i] for i, _ in group}) == 1 for group in after)
        assert all(len(group) == size for group in after)


def test_an_order_visits_every_image_once_in_an_epoch():
    indices = [index for group in draws(SampleOrder(10, 1, 0), 30) for index, _ in group]
    epochs = [indices[:10], indices[10:20], indices[20:]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_state_of_another_dataset_is_refused():
    state = SampleOrder(9, 1, 0).state_dict()
    with pytest.raises(ValueError, match="trained on 9 images and the dataset has 8"):
        SampleOrder(8, 1, 0).load_state_dict(state)
