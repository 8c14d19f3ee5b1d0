"""Panoptic labels from instances: held against pycocotools' own masks."""

import json

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from panoptic_dl.core.errors import DatasetError
from scripts.instances_to_panoptic import convert_instances

SIZE = (40, 60)


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def run_lengths(left, top, right, bottom, *, compressed):
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    encoded = mask_util.encode(np.asfortranarray(mask))
    if compressed:
        return encoded | {"counts": encoded["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes.tolist(), flat.size]).tolist()
    return {"size": list(SIZE), "counts": runs if not flat[0] else [0, *runs]}


def exported():
    """Two cars, one before the other, one hidden by it; a crowd below them; two parts of sky."""
    shapes = [
        (3, box(0, 0, 20, 10), 0),
        (3, run_lengths(40, 0, 60, 10, compressed=True), 0),
        (8, box(10, 15, 50, 35), 0),
        (8, run_lengths(20, 20, 30, 30, compressed=False), 0),
        (8, run_lengths(40, 20, 55, 30, compressed=True), 1),  # smaller than a car
        (9, box(22, 22, 24, 24), 0),
        (9, box(22, 22, 24, 24), 0),  # twice: one of them is hidden
    ]
    return {
        "images": [
            {"id": "a", "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]},
            {"id": "b", "file_name": "b.jpg", "height": 5, "width": 4},
        ],
        "categories": [
            {"id": 3, "name": "sky"},
            {"id": 8, "name": "car"},
            {"id": 9, "name": "bug"},
        ],
        "annotations": [
            {"id": i, "image_id": "a", "category_id": c, "segmentation": s, "iscrowd": crowd}
            for i, (c, s, crowd) in enumerate(shapes, 1)
        ],
    }


def convert(tmp_path, content, **options):
    (tmp_path / "in.json").write_text(json.dumps(content))
    options = {"background": None} | options
    done = convert_instances(tmp_path / "in.json", tmp_path, "train", **options)
    written = json.loads((tmp_path / "annotations" / "panoptic_train.json").read_text())
    maps = [
        rgb2id(np.asarray(Image.open(tmp_path / "panoptic_train" / a["file_name"])))
        for a in written["annotations"]
    ]
    return done, written, maps


def test_segments_are_the_visible_parts_of_the_masks(tmp_path):
    content = exported()
    done, written, (ids, empty) = convert(tmp_path, content, stuff=["sky"])
    api = COCO(str(tmp_path / "in.json"))
    masks = [api.annToMask(a).astype(bool) for a in api.loadAnns(api.getAnnIds())]
    assert done == [
        "5 segments of 2 images",
        "1 instances lie below others altogether, and are left out",
    ]
    assert [c["isthing"] for c in written["categories"]] == [0, 1, 1]
    segments = {s["id"]: s for s in written["annotations"][0]["segments_info"]}
    assert set(segments) == set(np.unique(ids).tolist()) - {0}
    bug = masks[5]
    small = masks[3] & ~bug
    large = masks[2] & ~masks[3]
    crowd = masks[4] & ~masks[2]
    sky = masks[0] | masks[1]
    found = {
        (s["category_id"], s["iscrowd"], (ids == label).tobytes()): s["area"]
        for label, s in segments.items()
    }
    assert found == {
        (category, is_crowd, mask.tobytes()): mask.sum()
        for category, is_crowd, mask in (
            (9, 0, bug),
            (8, 0, small),
            (8, 0, large),
            (8, 1, crowd),
            (3, 0, sky),
        )
    }
    assert not empty.any()
    assert written["annotations"][1]["segments_info"] == []


def test_the_background_is_a_class_of_its_own(tmp_path):
    _, written, maps = convert(tmp_path, exported(), background="rest")
    assert written["categories"][-1] == {"id": 10, "name": "rest", "isthing": 0}
    assert all((ids > 0).all() for ids in maps)
    (segment,) = written["annotations"][1]["segments_info"]
    assert segment["category_id"] == 10
    assert segment["area"] == 20


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda c: None, {"stuff": ["water"]}, "has no category 'water'; it has sky, car, bug"),
        (lambda c: None, {"background": "car"}, "has a category 'car' already"),
        (lambda c: c.pop("images"), {}, "is no file in COCO's instances format"),
        (lambda c: c["images"][0].pop("height"), {}, "image 'a' has the .height. None"),
        (lambda c: c["annotations"][0].update(image_id=5), {}, "annotation 1 is of image 5"),
        (lambda c: c["annotations"][0].update(category_id=5), {}, "annotation 1 is of category 5"),
        (lambda c: c["annotations"][0].pop("segmentation"), {}, "annotation 1 .*a box and no mask"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2]]),
            {},
            "annotation 1 .*2 numbers, not x and y",
        ),
        (
            lambda c: c["annotations"][1]["segmentation"].update(size=[60, 40]),
            {},
            r"annotation 2 .*a mask is \(60, 40\), the image \(40, 60\)",
        ),
        (
            lambda c: c["annotations"][1]["segmentation"].update(
                counts=c["annotations"][1]["segmentation"]["counts"][:-2]
            ),
            {},
            "annotation 2 .*it ends too early",
        ),
        (
            lambda c: c["annotations"][3]["segmentation"]["counts"].pop(),
            {},
            "annotation 4 .*counts do not add up",
        ),
        (lambda c: c["annotations"][0].update(segments_info=[]), {}, "panoptic already"),
        # What no reader of the project would take, or would take for something else.
        (lambda c: c["images"][1].update(id="a"), {}, "lists image 'a' twice"),
        (lambda c: c["images"][1].update(id=2), {}, "some image ids are numbers and some texts"),
        (lambda c: c["images"][1].update(id=None), {}, 'image {.id.: None.* needs an "id"'),
        (lambda c: c["images"][1].update(file_name=None), {}, "\"file_name\" of image 'b' is None"),
        (lambda c: c["images"][1].update(file_name="../b"), {}, "and inside it"),
        (lambda c: c["images"][1].update(width="4"), {}, "image 'b' has the \"width\" '4'"),
        (lambda c: c["images"][1].update(width=4.5), {}, "image 'b' has the \"width\" 4.5"),
        (lambda c: c["images"][1].update(width=10**9), {}, "image 'b' is 1000000000 x 5 pixels"),
        (lambda c: c["categories"][1].update(name="sky"), {}, 'two categories have the "name"'),
        (lambda c: c["categories"][1].update(id=3), {}, "lists category 3 twice"),
        (lambda c: c["categories"][1].update(name=" "), {}, '"name" must be a text'),
        (lambda c: c["categories"].append({"id": "1", "name": "x"}), {}, "category '1' .*whole"),
        (lambda c: c["annotations"][0].update(category_id="3"), {}, "1 is of category '3', which"),
        (lambda c: c["annotations"][0].update(image_id=["a"]), {}, r"1 is of image \['a'\], which"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), {}, "\"iscrowd\" is '0'; write 0 or 1"),
        (lambda c: c["annotations"][0].update(segmentation=7), {}, "neither polygons nor"),
        (lambda c: c["annotations"][0].update(segmentation=[0, 0, 9, 0, 9, 9]), {}, "a list of"),
        (lambda c: c.update(annotations=[7]), {}, '"annotations" are no list of objects'),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path, change, options, message):
    content = exported()
    change(content)
    with pytest.raises(DatasetError, match=message):
        convert(tmp_path, content, **options)
    assert not (tmp_path / "annotations" / "panoptic_train.json").exists()
    assert not (tmp_path / "panoptic_train").exists()


def test_whole_numbers_may_be_written_as_pandas_does(tmp_path):
    content = exported()
    content["images"] = [
        {"id": 1.0 + index, "file_name": f"{index}.jpg", "height": 40.0, "width": 60.0}
        for index in range(2)
    ]
    for annotation in content["annotations"]:
        annotation |= {"image_id": 1.0, "iscrowd": float(annotation["iscrowd"]) or None}
        annotation["category_id"] *= 1.0
    done, written, _ = convert(tmp_path, content)
    assert done[0] == "6 segments of 2 images"
    assert written["images"][0] == {"id": 1, "file_name": "0.jpg", "height": 40, "width": 60}
    assert type(written["images"][0]["height"]) is int
    assert sorted(s["iscrowd"] for s in written["annotations"][0]["segments_info"])[-2:] == [0, 1]


def test_bad_masks_are_left_out_where_that_is_asked_for_and_listed(tmp_path):
    content = exported()
    expected = convert(tmp_path, exported())[2][0]
    content["annotations"][2]["segmentation"].append([50, 20, 55, 25])  # a stray click
    for number, bad in enumerate(
        ([[1, 2]], [1, 2, 3, 4], None, [[0, 0, 2e8, 0, 9, 9]], {"size": [40, 60], "counts": [1]}),
        50,
    ):
        content["annotations"].append(
            {"id": number, "image_id": "b", "category_id": 3, "segmentation": bad}
        )
    outside = {"id": 60, "image_id": "b", "category_id": 3, "segmentation": box(8, 8, 9, 9)}
    content["annotations"].append(outside)
    with pytest.raises(DatasetError, match=r"annotation 3 .*4 numbers.*9 such masks.*--skip-bad"):
        convert(tmp_path, content)
    done, written, (ids, _) = convert(tmp_path, content, skip_bad_masks=True)
    assert np.array_equal(ids, expected)  # the object with the stray click is whole
    assert written["annotations"][1]["segments_info"] == []
    assert done[1] == "9 bad masks, or polygons of masks, are left out:"
    assert done[2].startswith("  annotation 3 of image 'a': a polygon has 4 numbers")
    assert "1 instances have no pixel inside of their image, and are left out" in done


def test_the_reader_has_the_last_word(tmp_path, run_script):
    content = exported()
    del content["categories"][0]
    content["annotations"] = content["annotations"][2:5]
    (tmp_path / "in.json").write_text(json.dumps(content))
    arguments = "instances_to_panoptic.py", tmp_path / "in.json", tmp_path, "train"
    code, out, err = run_script(*arguments)
    assert code == 0, err
    assert out.splitlines()[-2:] == [
        "no instance is of bug: classes all the same, unless taken out of the file",
        f"not ready yet: put the images into {tmp_path / 'train'} and run this again, which asks "
        "the reader about them",
    ]
    (tmp_path / "train").mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "train" / "a.jpg")
    code, out, err = run_script(*arguments)
    assert (code, "ready" in out) == (1, False)
    assert f"file missing: {tmp_path / 'train' / 'b.jpg'}" in err
    Image.new("RGB", (4, 5)).save(tmp_path / "train" / "b.jpg")
    code, out, err = run_script(*arguments)
    assert out.splitlines()[-1] == f"ready: dataset=coco_format dataset.root={tmp_path}"
    Image.new("RGB", (5, 4)).save(tmp_path / "train" / "b.jpg")
    code, out, err = run_script(*arguments)
    assert (code, "ready" in out) == (1, False)
    assert "b.jpg is 5 x 4, listed in the JSON file as 4 x 5" in err
