"""The files of one image: any content is a problem that names the file, and never an error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as mask_util

from panoptic_dl.doctor.labels import ImageReport, _compare_with_segments, check_files

LABELS = arrays.arrays(
    np.uint32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 4)
)


@given(LABELS)
def test_areas_are_those_of_pycocotools(label):
    segments = []
    for value in map(int, np.unique(label[label > 0])):
        mask = mask_util.encode(np.asfortranarray(label == value).astype(np.uint8))
        segments.append({"id": value, "area": int(mask_util.area(mask))})
    report, record = ImageReport("image"), {"pan_seg_file_name": "x", "segments_info": segments}
    _compare_with_segments(report, label, record)
    assert not report.problems
    for segment in segments:
        segment["area"] += 1
    _compare_with_segments(report, label, record)
    assert len(report.problems) == len(segments)


@given(LABELS)
def test_ids_that_one_of_the_two_lacks(label):
    report, segments = ImageReport("image"), [{"id": 1}, {"id": "x"}, {"id": 9}, {}]
    _compare_with_segments(report, label, {"pan_seg_file_name": "x", "segments_info": segments})
    expected = {f"id {v} ({(label == v).sum()} pixels)" for v in np.unique(label) if v > 1}
    expected |= {f"segment {n} of" for n in ("x", 9, *([] if (label == 1).any() else [1]))}
    assert len(report.problems) == len(expected)
    assert all(any(text in problem.text for problem in report.problems) for text in expected)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(60), b"\0" * 999])
def test_any_bytes_are_a_problem_and_no_error(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    file = str(tmp_path / "x.png")
    record = {"file_name": file, "pan_seg_file_name": file, "sem_seg_file_name": file}
    report = check_files(record, (4, 4), num_classes=3, is_cityscapes=True)
    assert {problem.kind for problem in report.problems} == {"images", "labels", "semantic labels"}
    assert all(problem.serious and file in problem.text for problem in report.problems)


@pytest.mark.parametrize("record", [{}, {"file_name": None}, {"file_name": 3, "segments_info": 1}])
def test_any_record_is_a_problem_and_no_error(record):
    assert check_files(record, None, num_classes=3).problems


def test_an_image_of_a_bombs_size_is_named(tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(file)
    report = check_files({"file_name": str(file)}, None, num_classes=3)
    assert f"cannot read {file} (it has more than 178,956,970 pixels" in report.problems[0].text


def test_files_that_are_read_well_are_no_problem_however_they_are_stored(tmp_path):
    for mode in ("RGBA", "P"):
        for name in ("image", "label"):
            image = Image.new("RGB", (4, 3), (7, 0, 0))
            image.convert("RGBA").putalpha(9)
            (image.quantize(2) if mode == "P" else image.convert(mode)).save(tmp_path / name, "PNG")
        record = {
            "file_name": str(tmp_path / "image"),
            "pan_seg_file_name": str(tmp_path / "label"),
            "segments_info": [{"id": 7, "category_id": 0}],
        }
        assert check_files(record, (3, 4), num_classes=3).problems == []


def test_a_tiny_image_with_an_odd_name(tmp_path):
    file = tmp_path / "ein Bild 写真 (1).png"
    Image.new("RGB", (1, 1)).save(file)
    assert check_files({"file_name": str(file)}, (1, 1), num_classes=3).problems == []
