"""Files are written completely or not at all; locks keep other processes out."""

import argparse
import getpass
import json
import os
import pwd
import signal
from pathlib import Path

import pytest
import torch

from panoptic_dl.core import files
from panoptic_dl.core.errors import UnreadableImageError
from panoptic_dl.core.files import (
    acquire_lock,
    atomic_write,
    csv_text,
    ensure_home,
    file_lock,
    file_name_text,
    folder_lock,
    is_locked,
    latex_text,
    local_path,
    markdown_text,
    near_names,
    printable,
    read_json,
    read_json_object,
    remove_temporary_files,
    require_file,
    save_state,
    table_cell,
    temporary_of,
    visible,
    write_text,
)
from panoptic_dl.core.images import read_image


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a.png"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".png"
        assert temporary_of(temporary.name) == "a.png"
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_file_from_before(tmp_path, error):
    def write():
        with atomic_write(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_would_have_to_be_waited_for_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="it is a named pipe, and has to be a file"):
        read_json(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=r"a\.png \(it is a named pipe"):
        read_image(tmp_path / "a.png", "RGB")
    with pytest.raises(OSError, match="it is a device"):
        require_file("/dev/zero")


def test_a_full_disk_is_its_own_error_and_no_other(tmp_path, monkeypatch):
    """PyTorch hides the one in an error of its own, and others may come in the meantime."""

    def save(state, file):
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        with pytest.raises(RuntimeError, match="DataLoader worker"):
            save_state(tmp_path / "a.pth", {})
    monkeypatch.setattr(files, "temporary_path", lambda target: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.pth'"):
        save_state(tmp_path / "a.pth", {"a": torch.zeros(100_000)})


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    left = [tmp_path / ".unfinished.77.a.png", tmp_path / "deep" / ".unfinished.8.model.pth"]
    kept = [tmp_path / name for name in (".unfinished.a", "a.png", "x.unfinished.7.b", "c.tmp")]
    for file in left + kept:
        file.touch()
    remove_temporary_files(tmp_path)
    assert [file.exists() for file in left] == [False, True]
    remove_temporary_files(tmp_path, recursive=True)
    assert not left[1].exists()
    assert all(file.exists() for file in kept)


def test_a_disk_that_does_not_keep_what_it_is_given(tmp_path, monkeypatch):
    sha256 = save_state(tmp_path / "a.pth", {"x": torch.ones(3)})
    assert sha256 == files.sha256_of(tmp_path / "a.pth")
    for change in (
        lambda data: data.replace(b"\0\0\x80\x3f", b"\0\0\0\0"),
        lambda data: data[:100],
    ):
        flush = lambda path, of=change: path.write_bytes(of(path.read_bytes()))  # noqa: E731
        monkeypatch.setattr(files, "flush", flush)
        with pytest.raises(OSError, match="does not read back"):
            save_state(tmp_path / "a.pth", {"x": torch.ones(3)})
    assert torch.equal(torch.load(tmp_path / "a.pth")["x"], torch.ones(3))


def test_a_lock_keeps_others_out(tmp_path):
    with folder_lock(tmp_path):
        assert is_locked(tmp_path / ".lock")
        with (
            pytest.raises(ValueError, match=r"in use by another process.*run_dir"),
            folder_lock(tmp_path),
        ):
            pass
        with folder_lock(tmp_path, ".other"):
            pass
    assert not is_locked(tmp_path / ".lock")
    assert not is_locked(tmp_path / "nothing")
    with folder_lock(tmp_path):
        pass


def test_asking_does_not_keep_anybody_out(tmp_path):
    """A process that asks all the time, and one that takes the lock meanwhile."""
    reading, writing = os.pipe()
    asking = os.fork()
    if not asking:
        os.write(writing, b"x")
        while True:
            is_locked(tmp_path / ".lock")
    try:
        os.read(reading, 1)
        for _ in range(200):
            with folder_lock(tmp_path):
                pass
    finally:
        os.kill(asking, signal.SIGKILL)
        os.waitpid(asking, 0)


def test_a_forked_process_does_not_hold_the_lock(tmp_path):
    file = tmp_path / "lock"
    (reading, writing), (begun, says_so) = os.pipe(), os.pipe()
    with file_lock(file):
        child = os.fork()
        if not child:
            os.write(says_so, b"x")
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.read(begun, 1)
        with pytest.raises(BlockingIOError):
            acquire_lock(file)
    try:
        assert not is_locked(file)  # the child is alive still
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        for pipe in (reading, begun, says_so):
            os.close(pipe)


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with folder_lock(tmp_path):
        assert not is_locked(tmp_path / ".lock")
    assert "has no locks" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_damaged_json_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is (empty|no whole JSON file)"):
        read_json(tmp_path / "a.json")


def test_an_object_is_an_object_whose_texts_can_be_written(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x": "\ud800"}))
    assert read_json_object(tmp_path / "a.json") == {"x": "?"}
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json holds a list in place of an object"):
        read_json_object(tmp_path / "a.json")


def test_text_for_a_terminal():
    assert printable("a\x1b[2Jb\n") == "a?[2Jb?"
    assert printable("x" * 300) == "x" * 200 + "..."
    assert printable([1]) == "(list)"
    assert printable(10**100) == "a very large number"
    assert printable(0.5) == "0.5"


def test_text_for_each_sink():
    hostile = "=a|b\n\x1b[2J\ud83d\u202e_c_ a_b\x7f"
    assert visible(hostile) == "=a|b\n?[2J??_c_ a_b?"
    assert table_cell(hostile) == r"=a\|b ?[2J??_c_ a_b?"
    assert table_cell(table_cell("a|b<")) == table_cell("a|b<")
    assert markdown_text(hostile) == r"=a\|b ?\[2J??\_c\_ a_b?"
    assert csv_text(hostile) == "'=a|b??[2J??_c_ a_b?"
    assert latex_text("a_b%\n\x1b\\") == "a\\_\\allowbreak{}b\\% ?\\textbackslash{}"
    assert file_name_text("../a:b\n\x1b") == "_a_b__"
    assert len(file_name_text("ä" * 300).encode()) == 240


def test_a_process_without_a_home_gets_one(monkeypatch, tmp_path):
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "mine"))
    ensure_home()  # a known user keeps what is named
    assert os.environ["HOME"] == str(tmp_path / "mine")
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for _ in range(2):
        monkeypatch.delenv("HOME")
        ensure_home()
        assert local_path("~/x") == tmp_path / f"panoptic-dl-{os.getuid()}" / "x"
    assert getpass.getuser() == f"user{os.getuid()}"
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # of another's folder there nothing is used
    (tmp_path / "panoptic-dl-12345").mkdir()
    monkeypatch.delenv("HOME")
    ensure_home()
    assert not os.environ["HOME"].endswith("12345")


def test_near_names_of_what_is_missing(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("Model.PTH", "run.pth", "in/deep.pth"):
        (tmp_path / name).touch()
    assert near_names(tmp_path, "model.pth") == f"; there is {tmp_path / 'Model.PTH'}"
    assert near_names(tmp_path, "In").endswith("/in")
    assert near_names(tmp_path, "runs.pth") == f"; in {tmp_path} there is run.pth"
    assert near_names(tmp_path, "deep.pth") == ""
    assert near_names(tmp_path, "deep.pth", deep=True).endswith("in/deep.pth")
    # A label of the same number elsewhere is no image.
    assert near_names(tmp_path, "deep.jpg", deep=True) == ""
    assert near_names(tmp_path, "runs.pth", deep=True) == ""
    assert near_names(tmp_path / "nowhere", "run.pth") == ""


def test_a_path_that_is_typed(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/x") == tmp_path / "x"
    for text in ("a:b/c", "./s3", "C:/x", "~nobody-of-this-name/x"):
        assert local_path(text) == Path(text)
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=local_path)
    for text in ("s3://b/x", "gs://b/x", "https://h/x", "hf://m", "file:///x", "s3:/b/x"):
        for url in (text, Path(text)):
            with pytest.raises(ValueError, match=r"^weights=\w+:/.* is a URL.*on this machine"):
                local_path(url, "weights")
        with pytest.raises(SystemExit):
            parser.parse_args([text])


def test_what_is_typed_as_a_path_goes_through_one_function():
    places = [*Path("panoptic_dl").rglob("*.py"), *Path("scripts").glob("*.py")]
    found = [str(place) for place in places if "expanduser" in place.read_text()]
    assert found == ["panoptic_dl/core/files.py"]
    assert not [place for place in places if "type=Path" in place.read_text()]
