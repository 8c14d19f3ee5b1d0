"""What `input=` finds, and what it says where there is nothing."""

from pathlib import Path

import pytest

from panoptic_dl.core.errors import DemoError
from panoptic_dl.demo.inputs import find_inputs


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
    return [one.source for one in find_inputs(given).inputs]


def test_a_folder_is_all_pictures_and_videos_below_it(folder):
    found = find_inputs(str(folder))
    assert [one.source for one in found.inputs] == [
        folder / name for name in ("a.PNG", "b.jpg", "in/c.jpeg", "in/d.mp4")
    ]
    assert [one.is_video for one in found.inputs] == [False, False, False, True]
    assert [one.name for one in found.inputs] == ["a", "b", "c", "d"]
    assert "2 " in found.notes[0] or "1 .txt" in found.notes[0]


def test_files_lists_patterns_and_cameras(folder):
    assert sources(str(folder / "notes.txt")) == [folder / "notes.txt"]  # reading it will tell
    assert sources([str(folder / "b.jpg"), str(folder / "in")])[0] == folder / "b.jpg"
    assert sources(str(folder / "*.jpg")) == [folder / "b.jpg"]
    assert sources(str(folder / "i?")) == [folder / "in/c.jpeg", folder / "in/d.mp4"]
    assert sources(str(folder / "**" / "*.jp*g")) == [folder / "b.jpg", folder / "in/c.jpeg"]
    (camera,) = find_inputs(0).inputs
    assert camera.is_video
    assert camera.name == "camera0"


def test_a_name_with_signs_of_a_pattern_is_a_file_if_it_is_there(folder):
    (folder / "x[1].jpg").touch()
    assert sources(str(folder / "x[1].jpg")) == [folder / "x[1].jpg"]


def test_a_file_given_twice_is_taken_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    found = find_inputs(["b.jpg", str(folder / "b.jpg"), "link.jpg", "./b.jpg"])
    assert [one.source for one in found.inputs] == [Path("b.jpg")]
    assert "3 inputs were given twice" in found.notes[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "mode=demo needs input="),
        ([], r"input=\[\] is empty"),
        ("", "input= is empty"),
        ("empty", "it is empty"),
        ("texts", "none of its 1 files"),
        ("*.gif", "matches no picture"),
        ("*.txt", "it matches 1 other"),
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
