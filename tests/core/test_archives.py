"""Files are read in zip archives as `zipfile` reads them; what cannot be is one clear error."""

import multiprocessing
import os
import random
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core import archives
from panoptic_dl.core.archives import (
    file_state,
    files_below,
    folder_or_archived,
    is_folder,
    list_folder,
    places,
    read_file,
)
from panoptic_dl.core.errors import DatasetError, UnreadableImageError
from panoptic_dl.core.images import read_image, read_panoptic_ids, read_size

NAMES = ["a/b/one.bin", "a/two.bin", "a/b/ä 床.bin", "top.bin", "a/empty.bin", "../out.bin"]
CONTENT = {name: random.Random(name).randbytes(3000) * 4 for name in NAMES} | {"a/empty.bin": b""}


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def packed(tmp_path, request):
    with zipfile.ZipFile(tmp_path / "x.ZIP", "w", request.param) as archive:
        archive.mkdir("a") if hasattr(archive, "mkdir") else archive.writestr("a/", "")
        for name, data in CONTENT.items():
            archive.writestr(name, data)
    return tmp_path / "x.ZIP"


def read_in_child(path):
    os._exit(0 if read_file(path) == CONTENT["a/b/one.bin"] else 1)


def test_members_are_read_as_zipfile_reads_them(packed):
    with zipfile.ZipFile(packed) as archive:
        for name in NAMES:
            assert read_file(f"{packed}/{name}") == read_file(packed / name) == archive.read(name)
            _, changed, size = file_state(packed / name)
            assert (size, changed) == (len(CONTENT[name]), packed.stat().st_mtime_ns)
    assert sorted(path.name for path in packed.parent.iterdir()) == ["x.ZIP"]


def test_folders_are_listed(packed):
    assert sorted(list_folder(packed)) == ["..", "a", "top.bin"]
    assert sorted(list_folder(packed / "a")) == ["b", "empty.bin", "two.bin"]
    assert files_below(packed / "a/b") == ["one.bin", "ä 床.bin"]
    assert is_folder(packed)
    assert is_folder(packed / "a/b")
    assert not is_folder(packed / "a/two.bin")
    assert not is_folder(packed / "a/tw")
    assert not is_folder(packed / "none")
    assert file_state(packed / "a")[1:] == file_state(packed)[1:] != (0, 0)
    assert file_state(packed / "none")[1:] == (0, 0)


def test_a_folder_named_as_an_archive_is_a_folder(tmp_path):
    folder = tmp_path / "data.zip" / "in.tar"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("text")
    assert read_file(folder / "a.txt") == b"text"
    assert list_folder(folder) == ["a.txt"]
    assert files_below(tmp_path) == ["data.zip/in.tar/a.txt"]
    assert is_folder(folder)


def test_one_handle_and_one_reading_of_the_directory_serve_threads_and_forks(packed, monkeypatch):
    made = []
    real = archives.zipfile.ZipFile
    monkeypatch.setattr(archives.zipfile, "ZipFile", lambda *a: made.append(a) or real(*a))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc") else None
    assert is_folder(packed)  # as datasets are looked at before threads and processes start
    jobs = [name for name in NAMES for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: read_file(packed / name), jobs))
    assert found == [CONTENT[name] for name in jobs]
    assert len(made) == 1
    assert before is None or len(os.listdir("/proc/self/fd")) <= before + 1
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=read_in_child, args=(packed / NAMES[0],)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]


def test_an_archive_that_has_changed_is_read_again(packed):
    assert read_file(packed / "top.bin") == CONTENT["top.bin"]
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("top.bin", b"new")
    assert read_file(packed / "top.bin") == b"new"
    with pytest.raises(FileNotFoundError):
        read_file(packed / NAMES[0])


def test_long_fields_before_a_member_are_stepped_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("a.bin")
        info.extra = b"\xfe\xca" + (500).to_bytes(2, "little") + bytes(500)
        archive.writestr(info, b"content")
        with archive.open("large.bin", "w", force_zip64=True) as file:
            file.write(b"more")
    assert read_file(tmp_path / "x.zip/a.bin") == b"content"
    assert read_file(tmp_path / "x.zip/large.bin") == b"more"


def picture(folder, name="a.png"):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return pixels


def zipped(folder, *names, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(folder / "x.zip", "w", method) as archive:
        for name in names:
            archive.write(folder / name, name)
    return folder / "x.zip"


def test_images_and_labels_are_those_of_the_files(tmp_path):
    pixels = picture(tmp_path)
    inside = zipped(tmp_path, "a.png") / "a.png"
    assert np.array_equal(read_image(inside, "RGB"), pixels)
    assert read_size(inside) == (30, 40)
    assert np.array_equal(read_panoptic_ids(inside), read_panoptic_ids(tmp_path / "a.png"))


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "x.zip is no whole zip archive"),
        (lambda file: file.write_bytes(b"no archive"), "x.zip is no whole zip archive"),
        (lambda file: flip(file, 500), "its archive is damaged there"),
        (lambda file: flip(file, -80 + 8), None),
        (lambda file: zipped(file.parent, "b.png"), r"x.zip/a.png \(missing\)"),
        (
            lambda file: zipped(file.parent, "a.png", method=zipfile.ZIP_LZMA),
            "compression, number 14",
        ),
    ],
)
def test_what_cannot_be_read_is_one_error_that_names_it(tmp_path, spoil, says):
    picture(tmp_path)
    picture(tmp_path, "b.png")
    archive = zipped(tmp_path, "a.png")
    if says is None:  # the flag of encrypted members, in the directory
        data = bytearray(archive.read_bytes())
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
        archive.write_bytes(data)
        says = "it is encrypted"
    else:
        spoil(archive)
    with pytest.raises(DatasetError, match=f"x.zip.*{says}|{says}") as error:
        read_image(archive / "a.png", "RGB")
    assert "\n" not in str(error.value)
    if "whole" not in says:
        assert isinstance(error.value, UnreadableImageError)


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.TGZ"])
def test_tar_is_refused_with_the_reason(tmp_path, name):
    picture(tmp_path)
    (tmp_path / name).write_bytes(b"whatever")
    for call in (lambda path: read_image(path, "RGB"), is_folder, list_folder):
        with pytest.raises(DatasetError, match=f"{name} is a tar archive.*unpack it"):
            call(tmp_path / name / "a.png")
    with pytest.raises(DatasetError, match="tar archive"):
        places(tmp_path / name)


def test_places_of_a_folder(packed):
    folder = packed.parent
    assert places(folder) == [folder]
    assert places(folder / "none") == [folder / "none"]
    shutil.move(packed, folder / "x.zip")
    for given in (folder / "x", folder / "x.zip"):
        inside = places(given)
        assert inside[0] == folder / "x.zip"
        assert folder / "x.zip/a/b" in inside
    (folder / "x").mkdir()
    assert places(folder / "x") == [folder / "x"]
    archived = folder_or_archived(folder / "b", "a/b", folder / "no.zip", folder / "x.zip")
    assert archived == folder / "x.zip/a/b"
    assert folder_or_archived(folder / "x", "a", folder / "x.zip") == folder / "x"
    assert folder_or_archived(folder / "c", "c", folder / "x.zip") == folder / "c"
