"""Opening many images: in order, in several processes, a sample that is always the same."""

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.doctor import labels as scanning
from panoptic_dl.doctor.labels import Question, Segments, Split, look_at, scan

from .patients import patient_of

LABELS = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)
)


@given(LABELS)
def test_areas_and_boxes_are_those_of_pycocotools(label):
    segments = Segments(label)
    areas, boxes = segments.areas(), segments.boxes()
    assert sorted(areas) == np.unique(label).tolist() == segments.values.tolist()
    for value, area in areas.items():
        mask = mask_util.encode(np.asfortranarray(label == value).astype(np.uint8))
        assert area == mask_util.area(mask)
        assert list(boxes[value]) == mask_util.toBbox(mask).tolist()


@given(LABELS)
def test_values_are_replaced(label):
    replaced = Segments(label).replaced({0: 7, 1: 0, 4: 300}, default=-1)
    expected = np.vectorize({0: 7, 1: 0, 4: 300}.get)(label, -1)
    assert np.array_equal(replaced, expected)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Twenty images of which every third is torn."""
    folder = tmp_path_factory.mktemp("many")
    records = []
    for index in range(20):
        file = folder / f"{index:02d}.png"
        Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
        if index % 3 == 0:
            file.write_bytes(file.read_bytes()[:40])
        records.append({"file_name": str(file), "image_id": index})
    made = Split("train", "none")
    made.__dict__["records"] = records
    made.__dict__["metadata"] = {"stuff_classes": ["a", "b"]}
    return made


def names(reports):
    return [(report.file_name, len(report.problems), report.digest) for report in reports]


def look(split, **options):
    return scan(split, **{"sample": None, "workers": 1, "tick": lambda: None} | options)


def test_processes_say_what_one_says_in_the_same_order(split, monkeypatch):
    monkeypatch.setattr(scanning, "CHUNK", 2)
    alone = names(look(split))
    assert [problems for _, problems, _ in alone] == [int(i % 3 == 0) for i in range(20)]
    assert names(look(split, workers=3)) == alone
    assert names(look(split, workers=64)) == alone


def test_a_sample_is_always_the_same_and_in_order(split):
    ticks = []
    chosen = [r.file_name for r in look(split, sample=7, tick=lambda: ticks.append(1))]
    assert chosen == [r.file_name for r in look(split, sample=7, workers=2)]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 7
    assert ticks
    assert len(look(split, sample=1000)) == 20


def die(questions):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_with_a_cure(split, monkeypatch):
    monkeypatch.setattr(scanning, "CHUNK", 2)
    monkeypatch.setattr(scanning, "_look_at_all", die)
    with pytest.raises(DatasetError, match=r"was killed[\s\S]*doctor\.workers=1"):
        look(split, workers=2)


def test_rows_of_a_scan_that_failed_are_not_green(tmp_path, monkeypatch):
    from panoptic_dl.doctor.doctor import data_checks

    from .broken import write_healthy
    from .patients import examined

    monkeypatch.setattr("panoptic_dl.doctor.data.scan", lambda *a, **k: 1 / 0)
    rows = examined(data_checks(), patient_of(write_healthy(tmp_path, "coco"), "coco"))
    for name in ("sizes", "labels", "label ids", "areas", "boxes", "image modes", "orientation"):
        assert rows[f"train data: {name}"].verdict.state.value == "not checked", name
    assert rows["train data: images"].verdict.found == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(60), b"\0" * 999])
def test_no_bytes_stop_the_looking(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    file = str(tmp_path / "x.png")
    record = {"file_name": file, "pan_seg_file_name": file, "sem_seg_file_name": file}
    report = look_at(Question(record, (4, 4), 3, 255, True))
    assert {problem.kind for problem in report.problems} == {"images", "labels", "semantic labels"}
    assert all(problem.serious and file in problem.text for problem in report.problems)


@pytest.mark.parametrize("record", [{}, {"file_name": None}, {"file_name": 3, "segments_info": 1}])
def test_no_record_stops_the_looking(record):
    assert look_at(Question(record, None, 3, 255, False)).problems


def test_an_image_of_a_bombs_size_is_named(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(file)
    report = look_at(Question({"file_name": str(file)}, None, 3, 255, False))
    assert "exceeds limit" in report.problems[0].text


def test_a_tiny_image_with_an_odd_name(tmp_path):
    file = tmp_path / "ein Bild 写真 (1).png"
    Image.new("RGB", (1, 1)).save(file)
    assert look_at(Question({"file_name": str(file)}, (1, 1), 3, 255, False)).problems == []
