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
    assert done == {"images": 2, "segments": 5, "hidden": 1}
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
        (lambda c: c["images"][0].pop("height"), {}, 'an image has no "id", "file_name", "height"'),
        (lambda c: c["annotations"][0].update(image_id=5), {}, "annotation 1 is of image 5"),
        (lambda c: c["annotations"][0].update(category_id=5), {}, "annotation 1 is of category 5"),
        (lambda c: c["annotations"][0].pop("segmentation"), {}, "annotation 1 .*a box and no mask"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2]]), {}, "annotation 1 .*be read"),
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
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path, change, options, message):
    content = exported()
    change(content)
    with pytest.raises(DatasetError, match=message):
        convert(tmp_path, content, **options)
    assert not (tmp_path / "annotations" / "panoptic_train.json").exists()
