"""Results never take each other's names."""

import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.demo.inputs import result_names


def names(*files):
    return result_names([Path(file) for file in files])


def test_names_are_those_of_the_inputs_where_they_differ():
    assert names("a/x.jpg", "a/y.png") == ["x", "y"]
    assert names("photo.of.me.jpg") == ["photo.of.me"]
    assert names() == []


def test_what_tells_inputs_apart_is_spelled_out():
    assert names("a/x.jpg", "b/x.jpg", "b/y.jpg") == ["a_x", "b_x", "y"]
    assert names("x.jpg", "x.png") == ["x_jpg", "x_png"]
    assert names("p/1/a/x.jpg", "p/2/a/x.jpg") == ["1_a_x", "2_a_x"]


def test_names_that_only_some_disks_tell_apart_differ_for_all():
    assert len({name.casefold() for name in names("x.jpg", "X.jpg")}) == 2
    composed, decomposed = "é.jpg", unicodedata.normalize("NFD", "é.jpg")
    both = names(composed, decomposed)
    assert len({unicodedata.normalize("NFC", name) for name in both}) == 2


def test_a_name_made_for_one_input_is_not_that_of_another():
    assert len(set(names("a/x.jpg", "b/x.jpg", "a_x.jpg"))) == 3
    assert names("a/x.jpg", "b/x.jpg", "a_x.jpg")[2] == "a_x"


PARTS = st.sampled_from(["a", "A", "b", "x", "x_2", "a_x", "é", "e\u0301", "..", "ﬁ", "fi", "x y"])
FILES = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(PARTS, max_size=3),
    st.one_of(PARTS, st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=300)),
    st.sampled_from([".jpg", ".JPG", ".png", ""]),
)


@given(st.lists(FILES, max_size=12, unique=True))
def test_names_are_safe_and_never_shared(files):
    found = names(*files)
    assert len(found) == len(files)
    keys = {unicodedata.normalize("NFKC", name).casefold() for name in found}
    assert len(keys) == len(found)
    for name in found:
        assert name == Path(name).name
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert len(name.encode()) <= 250
        assert name.isprintable()
