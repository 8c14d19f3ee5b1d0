"""Axes of the report's charts."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from panoptic_dl.report.page_charts import (
    Scale,
    limits,
    line_chart,
    scatter_chart,
    tick_text,
    ticks,
)

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(numbers, numbers)
def test_ticks_are_few_even_and_inside(one, other):
    low, high = min(one, other), max(one, other)
    assume(high - low > 1e-9 * max(abs(low), abs(high), 1e-300))
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(abs(step - steps[0]) <= 1e-6 * abs(steps[0]) for step in steps)


@given(st.lists(numbers, max_size=5))
def test_limits_are_never_empty_and_hold_all_values(values):
    low, high = limits(values)
    assert low < high
    assert all(low <= value <= high for value in values)
    scale = Scale(low, high, 200, 10)
    assert all(10 <= scale(value) <= 200 for value in values)


def test_ticks_are_written_short():
    texts = [tick_text(x) for x in (0, 0.25, 5e-4, 1e-5, 20_000, 1_500_000, -3.5, 0.30000000000004)]
    assert texts == ["0", "0.25", "5e-4", "1e-5", "20k", "1.5M", "-3.5", "0.3"]


def test_names_of_dots_are_escaped_and_stay_inside():
    dots = [("<script>", 0, 1.0, 2.0), ("right" * 5, 1, 9.0, 3.0)]
    chart = scatter_chart("a", dots, "x", "y")
    assert "<script>" not in chart
    assert chart.count("&lt;script&gt;") == 2
    assert 'text-anchor="end" y=' in chart


def test_a_line_of_one_point_and_names_with_markup():
    chart = line_chart("a<b", [("<script>", 0, [(5, 1.0)])], dots=True)
    assert "<script>" not in chart
    assert "&lt;script&gt;" in chart
    assert "nan" not in chart
