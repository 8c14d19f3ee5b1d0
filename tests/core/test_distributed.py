"""Sums of floats that do not depend on their order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.core.distributed import from_exact, to_exact

floats = st.lists(st.floats(0, 2.0**29), min_size=1)


@given(floats, st.randoms())
def test_exact_sums_do_not_depend_on_the_order(values, random):
    first = from_exact(to_exact(np.array(values)).sum(axis=0, keepdims=True))
    assert first == pytest.approx([math.fsum(values)], rel=1e-15, abs=len(values) * 2.0**-60)
    random.shuffle(values)
    again = from_exact(to_exact(np.array(values)).sum(axis=0, keepdims=True))
    assert (first == again).all()
