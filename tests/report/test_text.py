"""Durations and short names."""

import pytest

from panoptic_dl.report.text import duration, short_names


def test_durations_are_read_at_a_glance():
    seconds = (8.46, 59.96, 252, 11_100, float("nan"))
    assert [duration(s) for s in seconds] == ["8.5 s", "60.0 s", "4 min 12 s", "3 h 05 min", ""]


@pytest.mark.parametrize(
    ("names", "separator", "short"),
    [
        (["a/run", "b/run", "c/other"], "/", ["a/run", "b/run", "other"]),
        (["x/a/run", "x/b/run"], "/", ["a/run", "b/run"]),
        (["optimizer.lr", "seed"], ".", ["lr", "seed"]),
        (["a.width", "b.width", "width"], ".", ["a.width", "b.width", "width"]),
    ],
)
def test_names_have_as_few_parts_as_tell_them_apart(names, separator, short):
    assert list(short_names(names, separator).values()) == short
