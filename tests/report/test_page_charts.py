"""Axes of the report's charts."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from panoptic_dl.report.formats import load_template
from panoptic_dl.report.page_charts import _axis, _tick_text, _ticks, chart

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(numbers, numbers)
def test_ticks_are_few_even_and_inside(one, other):
    low, high = min(one, other), max(one, other)
    assume(high - low > 1e-9 * max(abs(low), abs(high), 1e-300))
    found = _ticks(low, high, 4)
    assert 1 <= len(found) <= 6
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert all(abs(step - steps[0]) <= 1e-6 * abs(steps[0]) for step in steps)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_limits_hold_all_values_and_axes_stay_in_their_pixels(values):
    place, ticks = _axis(values, 0.04, (200, 10), 4)
    assert all(10 <= place(value) <= 200 for value in values)
    assert all(10 <= pixel <= 200 for pixel, _ in ticks)


def test_ticks_are_written_short():
    texts = [
        _tick_text(x) for x in (0, 0.25, 5e-4, 1e-5, 20_000, 1_500_000, -3.5, 0.30000000000004)
    ]
    assert texts == ["0", "0.25", "5e-4", "1e-5", "20k", "1.5M", "-3.5", "0.3"]


def drawn(*arguments, **options):
    template = load_template("charts.html", autoescape=True)
    return template.module.draw(chart(*arguments, **options))


def test_names_of_dots_are_escaped_and_stay_inside():
    dots = [("<script>", 0, [(1.0, 2.0, "<script>: 1")]), ("right" * 5, 1, [(9.0, 3.0, "x")])]
    text = drawn("a", dots, x_name="x")
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 2
    assert 'text-anchor="end" y=' in text


def test_a_line_of_one_point_and_names_with_markup():
    text = drawn("a<b", [("<script>", 0, [(5, 1.0, "")])])
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "nan" not in text
