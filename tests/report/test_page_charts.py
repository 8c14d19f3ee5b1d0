"""Axes of the report's charts."""

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from panoptic_dl.report.formats import load_template
from panoptic_dl.report.page import _axis, chart

numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(numbers, numbers)
def test_ticks_are_few_and_even(one, other):
    assume(abs(one - other) > 1e-6 * max(abs(one), abs(other)))
    _, ticks = _axis([one, other], 0.04, (0, 300), 4)
    assert 1 <= len(ticks) <= 6
    steps = [b - a for (a, _), (b, _) in pairwise(ticks)]
    assert all(abs(step - steps[0]) <= 0.21 for step in steps)  # pixels have one decimal


@given(st.lists(numbers, min_size=1, max_size=5))
def test_limits_hold_all_values_and_axes_stay_in_their_pixels(values):
    place, ticks = _axis(values, 0.04, (200, 10), 4)
    assert all(10 <= place(value) <= 200 for value in values)
    assert all(10 <= pixel <= 200 for pixel, _ in ticks)


def test_ticks_are_written_short():
    assert [text for _, text in _axis([0, 0.3], 0, (0, 300), 4)[1]] == ["0", "0.1", "0.2", "0.3"]
    assert _axis([0, 90_000], 0.04, (0, 300), 4)[1][-1][1] == "50,000"


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
