"""Inputs: what `input=` means, names of results, and pictures of every kind."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.core.errors import DemoError
from panoptic_dl.demo.inputs import _result_names, common_folder, find_inputs

PARTS = st.sampled_from(["a", "A", "b", "x", "x_2", "a_x", "é", "e\u0301", "..", "ﬁ", "fi", "x y"])

FILES = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(PARTS, max_size=3),
    st.one_of(PARTS, st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=300)),
    st.sampled_from([".jpg", ".JPG", ".png", ""]),
)


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jpg",
        "a.PNG",
        "in/c.jpeg",
        "in/d.mp4",
        "notes.txt",
        ".hidden.jpg",
        ".git/e.jpg",
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.md").touch()
    return tmp_path


def sources(given):
    return [one.source for one in find_inputs(given)]


def test_a_folder_is_all_pictures_and_videos_below_it(folder, caplog):
    caplog.set_level("INFO")
    found = find_inputs(str(folder))
    assert [one.source for one in found] == [
        folder / name for name in ("a.PNG", "b.jpg", "in/c.jpeg", "in/d.mp4")
    ]
    assert [one.is_video for one in found] == [False, False, False, True]
    assert [one.name for one in found] == ["a", "b", "c", "d"]
    assert "left alone: 1 .txt, 1 .md" in caplog.text


def test_files_lists_patterns_and_cameras(folder):
    assert sources(str(folder / "notes.txt")) == [folder / "notes.txt"]  # reading it will tell
    assert sources([str(folder / "b.jpg"), str(folder / "in")])[0] == folder / "b.jpg"
    assert sources(str(folder / "*.jpg")) == [folder / "b.jpg"]
    assert sources(str(folder / "i?")) == [folder / "in/c.jpeg", folder / "in/d.mp4"]
    assert sources(str(folder / "**" / "*.jp*g")) == [folder / "b.jpg", folder / "in/c.jpeg"]
    (camera,) = find_inputs(0)
    assert camera.is_video
    assert camera.name == "camera0"


def test_a_name_with_signs_of_a_pattern_is_a_file_if_it_is_there(folder):
    (folder / "x[1].jpg").touch()
    assert sources(str(folder / "x[1].jpg")) == [folder / "x[1].jpg"]


def test_a_file_given_twice_is_taken_once(folder, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.chdir(folder)
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    found = find_inputs(["b.jpg", str(folder / "b.jpg"), "link.jpg", "./b.jpg"])
    assert [one.source for one in found] == [Path("b.jpg")]
    assert "3 inputs were given twice" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "mode=demo needs input="),
        ([], r"input=\[\] is empty"),
        ("", "input= is empty"),
        ("empty", "no picture and no video in 0 files"),
        ("texts", "no picture and no video in 1 files"),
        ("*.gif", "no picture and no video in 0 files"),
        ("*.txt", "no picture and no video in 1 files"),
        ("bb.jpg", r"no such file or folder; in .* there is b\.jpg"),
        ("no/where.jpg", "nor a folder"),
        (True, "neither a path"),
        (1.5, "neither a path"),
    ],
)
def test_nothing_found_is_one_clear_error(folder, monkeypatch, given, message):
    monkeypatch.chdir(folder)
    with pytest.raises(DemoError, match=message):
        find_inputs(given)


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DemoError, match="neither a file nor a folder"):
        find_inputs(str(tmp_path / "pipe.jpg"))


def names(*files):
    return _result_names([Path(file) for file in files])


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


def test_the_folder_that_holds_all_files(folder, monkeypatch):
    assert common_folder(find_inputs(str(folder / "b.jpg"))) == folder
    assert common_folder(find_inputs([str(folder / "in" / "c.jpeg"), 0])) == folder / "in"
    assert common_folder(find_inputs(str(folder))) == folder
    monkeypatch.chdir(folder / "in")
    given = ["c.jpeg", str(folder / "b.jpg")]  # as typed: relative, and not
    assert common_folder(find_inputs(given)) == folder
    assert common_folder(find_inputs(0)) == Path()
