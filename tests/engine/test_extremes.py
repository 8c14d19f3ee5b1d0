"""The best and the worst of many, against sorting all of them."""

import math
import random

import pytest

from panoptic_dl.modes.error_pictures import Extremes, choose


def offered(keys, count):
    extremes: Extremes[str] = Extremes(count)
    for key in keys:
        extremes.offer(key, lambda key=key: f"made for {key}")
        assert len(extremes.kept) == len(extremes.keys) <= 2 * count
    return extremes


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9, 10, 11, 60])
def test_they_are_those_of_the_sorted_whole(count, number):
    draw = random.Random(number)
    for _ in range(20):
        keys = [(draw.choice([0.0, 0.25, 0.5, 1.0, draw.random()]), i) for i in range(number)]
        draw.shuffle(keys)
        extremes = offered(keys, count)
        ordered = sorted(keys)
        expected = ordered if number <= 2 * count else ordered[:count] + ordered[number - count :]
        assert extremes.keys == expected
        assert extremes.kept == {key: f"made for {key}" for key in expected}
        worst, best = choose(extremes.keys, count)
        assert (worst, best) == choose(keys, count)
        assert worst == ordered[: len(worst)]
        assert best == ordered[::-1][: len(best)]
        assert not set(worst) & set(best)
        assert len(worst) + len(best) == min(number, 2 * count)
        assert 0 <= len(worst) - len(best) <= 1


def test_what_is_neither_is_not_even_made():
    extremes = offered([(0.1, 0), (0.9, 1)], 1)
    extremes.offer((0.5, 2), lambda: pytest.fail("compressed in vain"))
    extremes.offer((math.nan, 3), lambda: pytest.fail("without a quality"))
    assert extremes.keys == [(0.1, 0), (0.9, 1)]


def test_of_equal_ones_the_first_image_is_worse():
    assert choose([(0.5, 3), (0.5, 1), (0.5, 2)], 1) == ([(0.5, 1)], [(0.5, 3)])
