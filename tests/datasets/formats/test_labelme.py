"""LabelMe's shapes of every kind, held against drawings by numpy and pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.masks import decode_mask, encode_segmentation
from panoptic_dl.datasets.formats.labelme import read
from tests.datasets.formats.exports import SIZE, encoded

HEIGHT, WIDTH = SIZE


def write(root, *shapes, name="a"):
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"{name}.jpg")
    content = {"imagePath": f"{name}.jpg", "shapes": [{"label": "ball"} | s for s in shapes]}
    (root / f"{name}.json").write_text(json.dumps(content))


def instances(root):
    return read(root).splits["train"][0].label()


def pixels(instance):
    return decode_mask(encode_segmentation(instance.segmentation, SIZE), SIZE)


def test_boxes_circles_and_masks_are_areas_too(tmp_path):
    part = np.zeros((10, 20), bool)
    part[2:5, 3:9] = True
    write(
        tmp_path,
        {"shape_type": "rectangle", "points": [[30, 20], [10, 5]]},
        {"shape_type": "circle", "points": [[50, 30], [50, 40]]},
        {"shape_type": "mask", "points": [[60, 40], [79, 49]], "mask": encoded(part)},
    )
    box, circle, mask = map(pixels, instances(tmp_path))
    wanted = np.zeros(SIZE, bool)
    wanted[5:20, 10:30] = True
    assert np.array_equal(box, wanted)
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    disk = np.hypot(y - 30, x - 50) <= 10
    assert (circle ^ disk).sum() < 0.06 * disk.sum()
    wanted = np.zeros(SIZE, bool)
    wanted[42:45, 63:69] = True
    assert np.array_equal(mask, wanted)


def test_shapes_of_a_group_are_one_object(tmp_path):
    def square(x, **more):
        return {"points": [[x, 0], [x + 8, 0], [x + 8, 8], [x, 8]], **more}

    write(
        tmp_path,
        square(0, group_id=1),
        square(20, group_id=1),
        square(40, group_id=1, label="box"),
        square(60),
        square(80),
    )
    assert [len(i.segmentation) for i in instances(tmp_path)] == [2, 1, 1, 1]


def test_rectangles_have_two_corners_or_four(tmp_path):
    corners = [[10, 5], [30, 5], [30, 20], [10, 20]]
    shapes = [("rectangle", corners[::2]), ("rectangle", corners), ("rotation", corners)]
    write(tmp_path, *({"shape_type": kind, "points": points} for kind, points in shapes))
    assert [i.segmentation for i in instances(tmp_path)] == [[[10, 5, 30, 5, 30, 20, 10, 20]]] * 3


def test_images_without_a_json_file_are_counted(tmp_path):
    write(tmp_path, {"points": [[1, 1], [9, 1], [9, 9]]})
    assert read(tmp_path).notes == []
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert read(tmp_path).notes == ["1 of 2 images have no JSON file, and are left out"]


def test_lines_and_points_have_no_area_and_a_torn_shape_is_named(tmp_path):
    write(tmp_path, {"shape_type": "line", "points": [[0, 0], [9, 9]]})
    (line,) = instances(tmp_path)
    assert line.segmentation is None
    assert "shape 0 ('ball')" in line.where
    for shape in (
        {"shape_type": "rectangle", "points": [[0, 0]]},
        {"shape_type": "polygon", "points": [[0, None], [3, 4]]},
        {"shape_type": "mask", "points": [[0, 0], [3, 4]], "mask": "AAAA"},
    ):
        write(tmp_path, shape)
        with pytest.raises(DatasetError, match=rf"points make no {shape['shape_type']}"):
            instances(tmp_path)


def test_classes_are_sorted_by_name_and_other_json_files_are_left_alone(tmp_path):
    write(tmp_path, {"points": [], "label": "car"}, {"points": [], "label": "bus "})
    (tmp_path / "notes.json").write_text('{"by": "me"}')
    assert [c["name"] for c in read(tmp_path).categories] == ["bus", "car"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"file missing: a.jpg, which .*a.json lists"):
        read(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DatasetError, match=r"a.json is no annotation of LabelMe"):
        read(tmp_path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(DatasetError, match="no JSON file of LabelMe"):
        read(tmp_path)
