"""Headers of a split: faults are found before pixels are read; right files are remembered."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core import headers
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.headers import check_records, fingerprint, require_own_ids

SIZE = (6, 8)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two hundred images of 6 x 8 pixels, each with a panoptic and a semantic label."""
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "cache"))
    found = []
    for number in range(200):
        files = [tmp_path / f"{kind}{number}.png" for kind in ("image", "panoptic", "label")]
        for file, shape in zip(files, ((*SIZE, 3), (*SIZE, 3), SIZE), strict=True):
            Image.fromarray(np.zeros(shape, np.uint8)).save(file)
        record = {"file_name": str(files[0]), "height": SIZE[0], "width": SIZE[1]}
        found.append((record, [(str(files[1]), "panoptic"), (str(files[2]), "label")]))
    return found


def check_headers(title, images, **options):
    labels = {id(record): labels for record, labels in images}
    check_records(title, [r for r, _ in images], lambda record: labels[id(record)], **options)


def looked_at(monkeypatch):
    """The files whose headers are read from now on."""
    files = []
    real = headers.read_size
    monkeypatch.setattr(
        headers, "read_size", lambda f, *kind: files.append(os.fspath(f)) or real(f, *kind)
    )
    return files


def resize(file, size):
    Image.open(file).resize(size).save(file)


def test_right_files_are_looked_at_once(images, monkeypatch):
    files = looked_at(monkeypatch)
    check_headers("val", images)
    assert len(files) == len(set(files)) == 600
    del files[:]
    check_headers("val", images)
    assert not files
    label = images[150][1][0][0]
    os.utime(label, ns=(1, 1))
    images[7][0]["height"] = 9  # an entry that was edited
    with pytest.raises(DatasetError, match="its entry"):
        check_headers("val", images)
    assert {images[7][0]["file_name"], label} >= {file for file in files if "panoptic" in file}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda image, labels: os.remove(labels[1]), "label123.png"),
        (lambda image, labels: resize(labels[0], (4, 3)), "sizes differ: .*panoptic123.png is 4 x"),
        (lambda image, labels: resize(image, (9, 6)), "sizes differ: .*image123.png is 9 x 6"),
        (lambda image, labels: open(image, "wb").close(), "cannot read .*image123.png"),
        (lambda image, labels: Image.new("I;16", (8, 6)).save(image), "image123.png .*8 bits"),
        (lambda image, labels: Image.new("F", (8, 6)).save(labels[1], "TIFF"), "label123.png"),
    ],
)
def test_faults_are_named(images, break_it, message):
    check_headers("val", images)
    record, labels = images[123]
    break_it(record["file_name"], [file for file, _ in labels])
    with pytest.raises(DatasetError, match=message):
        check_headers("val", images)
    with pytest.raises(DatasetError, match=message):  # what is wrong is not remembered
        check_headers("val", images)


def test_an_image_that_is_too_large_is_known_from_its_header(images, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DatasetError, match=r"image0.png.*more than 40 pixels"):
        check_headers("val", images)


def test_some_faults_may_be_allowed(images, caplog):
    for number in (3, 70):
        os.remove(images[number][0]["file_name"])
    check_headers("train", images, most_bad=2)
    assert "image3.png" in caplog.text
    assert "image70.png" in caplog.text
    with pytest.raises(DatasetError, match=r"image70\.png"):
        check_headers("train", images, most_bad=1)


def test_it_ends_in_time_and_goes_on_where_it_was(images, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    monkeypatch.setattr(headers, "THREADS", 1)
    check_headers("train", images, seconds=0)
    assert "the headers of 64 of 200 images are checked" in caplog.text
    files = looked_at(monkeypatch)
    check_headers("train", images)
    assert 0 < len(files) <= 600 - 3 * 64
    assert images[0][0]["file_name"] not in files


def test_a_disk_without_room_and_a_torn_file_only_cost_time(images, tmp_path, monkeypatch):
    check_headers("val", images)
    file = tmp_path / "cache" / "headers"
    assert file.stat().st_size == 8 * len(images)
    file.write_bytes(file.read_bytes()[:101])
    files = looked_at(monkeypatch)
    check_headers("val", images)
    assert len(files) == 3 * (200 - 12)
    (tmp_path / "none").touch()
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "none" / "below"))
    check_headers("val", images)


@pytest.mark.parametrize(
    ("segments", "says"),
    [
        ([{"id": 5}, {"id": 5}], "segment 5 is listed twice"),
        ([{"category_id": 0}], "segment None: ids are whole numbers from 1"),
        ([{"id": "5"}], "segment '5': ids are whole numbers from 1"),
        ([{"id": 2**24}], "segment 16777216: ids are whole numbers"),
        ([{"id": 5, "iscrowd": None}], 'segment 5: "iscrowd" is None; write 0 or 1'),
        ([{"id": 5, "area": "7"}], "segment 5: \"area\" is '7'; write a number"),
    ],
)
def test_segments_that_no_label_can_have_are_named(images, segments, says):
    record = {**images[3][0], "pan_seg_file_name": "a.png", "segments_info": segments}
    with pytest.raises(DatasetError, match=f"a.png: {says}"):
        check_headers("val", [*images[:3], (record, images[3][1])], most_bad=9)


def test_two_records_of_an_image_are_named():
    records = [{"file_name": "a.png", "image_id": 7}, {"file_name": "b.png", "image_id": 7}]
    with pytest.raises(DatasetError, match=r"x\.json has image 7 2 times: give each"):
        require_own_ids("x.json", records)
    require_own_ids("x.json", [{"file_name": "a.png"}, {"file_name": "b.png"}])


def test_a_fingerprint_tells_names_sizes_segments_and_some_files(images, tmp_path):
    segment = {"id": 1, "category_id": 2, "iscrowd": 0, "area": 3}
    records = [record | {"segments_info": [segment]} for record, _ in images]
    whole = fingerprint(records)
    moved = tmp_path / "moved"
    moved.mkdir()
    for record in records:
        os.link(record["file_name"], moved / os.path.basename(record["file_name"]))
    there = [r | {"file_name": str(moved / os.path.basename(r["file_name"]))} for r in records]
    assert fingerprint(there) == whole
    last = records[-1]
    for change in (
        {"file_name": f"{tmp_path}/x.png"},
        {"height": 7},
        {"segments_info": []},
        {"segments_info": [segment | {"area": 4}]},
    ):
        assert fingerprint([*records[:-1], last | change]) != whole
    assert fingerprint(records[::-1]) != whole
    resize(there[7]["file_name"], (300, 200))
    assert fingerprint(there) != whole
    label = tmp_path / "label.png"
    label.write_bytes(b"12")
    labeled = [record | {"sem_seg_file_name": str(label)} for record in records]
    before = fingerprint(labeled)
    label.write_bytes(b"123")
    assert fingerprint(labeled) != before
