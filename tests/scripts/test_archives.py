"""Archives are found by their content and unpacked whole; hostile ones are refused as a whole."""

import errno
import os
import shutil
import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preparation as find
from panoptic_dl.core.errors import DatasetError
from preparation import find_archives
from scripts.prepare_cityscapes import ARCHIVES as CITYSCAPES
from scripts.prepare_coco import ARCHIVES as COCO
from tests.scripts.packed import IMAGE, images, run, tree, write


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_members_are_unpacked_and_only_those_that_are_wanted(tmp_path, num_workers):
    members = images(150)
    others = [("__MACOSX/val2017/._0.jpg", b"x"), ("R\x1b[31m", b"x"), ("val2017/", b"")]
    write(tmp_path / "val2017.zip", *members, *others)
    lines = []
    run(tmp_path, num_workers, lines.append)
    assert tree(tmp_path / "coco") == dict(members)
    assert lines[-1] == ("val2017.zip: 150 files unpacked, 2 others kept in it; it can be deleted")
    assert (tmp_path / "val2017.zip").is_file()


def test_a_second_run_unpacks_what_is_missing_or_of_another_size_and_nothing_else(tmp_path):
    members = images(5)
    write(tmp_path / "val2017.zip", *members)
    run(tmp_path)
    files = sorted((tmp_path / "coco/val2017").iterdir())
    files[1].unlink()
    files[3].write_bytes(b"torn")
    (files[0].parent / f".unfinished.77.{files[0].name}").write_bytes(b"left by kill -9")
    before = {file: file.stat().st_mtime_ns for file in (files[0], files[2], files[4])}
    run(tmp_path)
    assert tree(tmp_path / "coco") == dict(members)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    lines = []
    run(tmp_path, say=lines.append)
    assert lines == ["val2017.zip: unpacked already, 5 files; it can be deleted"]


@pytest.mark.parametrize("name", ["val2017 (1).zip", "val2017-1.ZIP", "something.zip"])
def test_an_archive_is_known_by_what_is_in_it(tmp_path, name):
    write(tmp_path / name, *images(1))
    lines = []
    run(tmp_path, say=lines.append)
    assert lines[0] == f"{name}: is val2017.zip, by what is in it"
    assert len(tree(tmp_path / "coco")) == 1


def test_of_two_archives_the_official_name_is_taken(tmp_path):
    write(tmp_path / "a.zip", *images(1))
    write(tmp_path / "val2017.zip", *images(2))
    lines = []
    (found,) = find_archives([tmp_path, tmp_path], COCO, lines.append)
    assert found.path.name == "val2017.zip"
    assert lines == [f"{tmp_path}/a.zip: left alone, {tmp_path}/val2017.zip has the same in it"]


def test_archives_of_other_things_are_left_alone(tmp_path):
    write(tmp_path / "stuffthingmaps.zip", ("train2017/000000000009.png", b"x"))
    write(tmp_path / "leftImg8bit_trainextra.zip", ("leftImg8bit/train_extra/a/a.png", b"x"))
    write(tmp_path / "val2017.zip", ("empty.txt", b""))
    (tmp_path / "notes.zip").write_bytes(b"no zip file")
    lines = []
    assert find_archives([tmp_path, tmp_path / "none"], COCO + CITYSCAPES, lines.append) == []
    assert sorted(line.split(": ", 1)[1] for line in lines) == [
        "left alone, it is no zip file that can be read",
        "left alone, there is nothing of val2017.zip in it",
    ]


@given(share=st.floats(0.05, 0.98))
@settings(max_examples=15, deadline=None)
def test_a_torn_download_is_named_with_the_cure(tmp_path_factory, share):
    folder = tmp_path_factory.mktemp("torn")
    whole = write(folder / "val2017.zip", *images(20)).read_bytes()
    (folder / "val2017.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=r"incomplete archive: .*val2017\.zip.*816 MB.*wget -c"):
        run(folder)
    assert not (folder / "coco").exists()
    (folder / "val2017(1).zip").write_bytes(whole)  # a second download serves
    run(folder)
    assert len(tree(folder / "coco")) == 20


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("header", [False, True])
def test_damage_within_is_named_and_leaves_no_file(tmp_path, num_workers, header):
    path = write(tmp_path / "val2017.zip", *images(200))
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[120]
    data = bytearray(path.read_bytes())
    data[info.header_offset + (0 if header else 900)] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=rf"val2017.zip, in {IMAGE.format(120)}.*Download it"):
        run(tmp_path, num_workers)
    left = tree(tmp_path / "coco")
    assert IMAGE.format(120) not in left
    assert not any("unfinished" in name for name in left)


Usage = namedtuple("Usage", "total used free")


def test_a_disk_without_room_is_known_before_anything_is_written(tmp_path, monkeypatch):
    write(tmp_path / "val2017.zip", *images(10))  # 3 blocks of 4096 bytes would do for no image
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(9, 9, 10 * 4096 - 1))
    with pytest.raises(DatasetError, match=r"41 KB are to be unpacked and 41 KB are free.*df -h"):
        run(tmp_path)
    assert not (tmp_path / "coco").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(9, 9, 10 * 4096))
    run(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(9, 9, 0))
    run(tmp_path)  # all is there


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_disk_that_fills_meanwhile_is_said_and_no_half_file_stays(
    tmp_path, monkeypatch, num_workers
):
    write(tmp_path / "val2017.zip", *images(200))
    replace = os.replace

    def full(source, target):
        if str(target).endswith("130.jpg"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DatasetError, match=r"disk is full: .*130\.jpg.*run the same command again"):
        run(tmp_path, num_workers)
    left = tree(tmp_path / "coco")
    assert 0 < len(left) < 200
    assert not any("unfinished" in name for name in left)
    monkeypatch.undo()
    run(tmp_path, num_workers)
    assert tree(tmp_path / "coco") == dict(images(200))


def test_a_folder_in_the_way_is_named(tmp_path):
    write(tmp_path / "val2017.zip", *images(1))
    (tmp_path / "coco" / IMAGE.format(0) / "in").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"cannot unpack .*000\.jpg of .*val2017.zip to"):
        run(tmp_path)


NAMES = [
    *("../evil.jpg", "val2017/../../evil.jpg", "/tmp/evil.jpg", "C:/evil.jpg", "//host/evil.jpg"),
    *("val2017\\..\\..\\evil.jpg", "..", "val2017/\0evil.jpg"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path, name):
    placeholder = "x" * len(name)  # zipfile itself would mend some of the names
    path = write(tmp_path / "any.zip", *images(1), (placeholder, b"evil"))
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="refused, nothing of it was unpacked"):
        run(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, mode):
    write(tmp_path / "val2017.zip", (IMAGE.format(0), b"/etc/passwd"), mode=mode)
    with pytest.raises(DatasetError, match="is a link or a device"):
        run(tmp_path)


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "val2017.zip", *images(1), *images(1))
    with pytest.raises(DatasetError, match="comes twice"):
        run(tmp_path)


def patched(path: Path, name: str, **fields: int) -> None:
    """Change numbers of a member in the archive's directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    for offset, length, value in {
        "flags": (8, 2, fields.get("flags")),
        "size": (24, 4, fields.get("size")),
    }.values():
        if value is not None:
            data[entry + offset : entry + offset + length] = value.to_bytes(length, "little")
    path.write_bytes(data)


def test_encrypted_members_are_refused(tmp_path):
    patched(write(tmp_path / "val2017.zip", *images(1)), IMAGE.format(0), flags=1)
    with pytest.raises(DatasetError, match="is encrypted"):
        run(tmp_path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    patched(write(tmp_path / "val2017.zip", *images(1)), IMAGE.format(0), size=3_000_000_000)
    monkeypatch.setattr(find, "MAX_BYTES", 2_000_000_000)
    with pytest.raises(DatasetError, match=r"would unpack to 3 GB"):
        run(tmp_path)


@pytest.mark.parametrize("declared", [100, 60_000])
def test_a_member_gives_no_more_and_no_less_than_it_declares(tmp_path, declared):
    path = write(tmp_path / "val2017.zip", (IMAGE.format(0), bytes(50_000)))
    patched(path, IMAGE.format(0), size=declared)
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        run(tmp_path)
    assert tree(tmp_path / "coco") == {}
