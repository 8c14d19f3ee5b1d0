"""Panoptic labels from instances: held against pycocotools' own masks."""

import json
import shutil

import numpy as np
import pytest
from panopticapi.utils import rgb2id
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.coco_instances import read
from panoptic_dl.datasets.importing import ImportOptions, convert

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


def converted(tmp_path, content, *, background="void", sizes=(SIZE, (5, 4)), **options):
    """The notes, the JSON that is written, and the ids of the images."""
    root, out = tmp_path / "export", tmp_path / "out"
    for folder in (root, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (root / "instances_train.json").write_text(json.dumps(content))
    for name, (height, width) in zip("ab", sizes, strict=True):
        Image.new("RGB", (width, height)).save(root / f"{name}.jpg")
    options = ImportOptions(background=background, **options)
    notes = convert(read(root), root, out, ["train"], options)
    written = json.loads((out / "annotations" / "panoptic_train.json").read_text())
    files = [out / "panoptic_train" / a["file_name"] for a in written["annotations"]]
    return notes, written, [rgb2id(np.asarray(Image.open(file))) for file in files]


def test_segments_are_the_visible_parts_of_the_masks(tmp_path):
    content = exported()
    notes, written, (ids, empty) = converted(tmp_path, content, stuff=("sky",))
    api = COCO(str(tmp_path / "export" / "instances_train.json"))
    masks = [api.annToMask(a).astype(bool) for a in api.loadAnns(api.getAnnIds())]
    assert notes == [
        f"{tmp_path / 'export' / 'a.jpg'}: 1 instances lie below others, and are left out"
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
    _, written, maps = converted(tmp_path, exported(), background="stuff")
    assert written["categories"][-1]["name"] == "background"
    assert (written["categories"][-1]["id"], written["categories"][-1]["isthing"]) == (10, 0)
    assert all((ids > 0).all() for ids in maps)
    (segment,) = written["annotations"][1]["segments_info"]
    assert segment["category_id"] == 10
    assert segment["area"] == 20


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda c: None,
            {"stuff": ("water",)},
            "stuff=water is none of the classes: sky, car, bug",
        ),
        (lambda c: c["images"].clear(), {}, "no images are listed"),
        (lambda c: c["images"][0].pop("height"), {}, "image 'a' has the .height. None"),
        (lambda c: c["annotations"][0].update(image_id=5), {}, "annotation 1 is of image 5"),
        (lambda c: c["annotations"][0].update(category_id=5), {}, "annotation 1 is of category 5"),
        (lambda c: c["images"][1].update(id="a"), {}, "lists image 'a' twice"),
        (lambda c: c["images"][1].update(id=None), {}, 'image {.id.: None.* needs an "id"'),
        (lambda c: c["images"][1].update(file_name=None), {}, "file missing: None, which"),
        (lambda c: c["images"][1].update(file_name="c.jpg"), {}, "file missing: c.jpg, which"),
        (lambda c: c["images"][1].update(width="4"), {}, "image 'b' has the \"width\" '4'"),
        (lambda c: c["images"][1].update(width=4.5), {}, "image 'b' has the \"width\" 4.5"),
        (lambda c: c["images"][1].update(width=10**9), {}, "image 'b' is 1000000000 x 5 pixels"),
        (lambda c: c["images"][1].update(width=3), {}, "its entry in .* is 3 x 5, .*jpg is 4 x 5"),
        (lambda c: c["categories"][1].update(id=3), {}, "lists category 3 twice"),
        (lambda c: c["categories"][1].update(name=" "), {}, 'category 8 needs a "name"'),
        (lambda c: c["annotations"][0].update(category_id="3"), {}, "1 is of category '3', which"),
        (lambda c: c["annotations"][0].update(image_id=["a"]), {}, r"1 is of image \['a'\], which"),
        (lambda c: c["annotations"][0].update(iscrowd="0"), {}, "\"iscrowd\" is '0'; write 0 or 1"),
        (lambda c: c.update(annotations=[7]), {}, '"annotations" are no list of objects'),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path, change, options, message):
    content = exported()
    change(content)
    with pytest.raises(DatasetError, match=message):
        converted(tmp_path, content, **options)


def test_whole_numbers_may_be_written_as_pandas_does(tmp_path):
    content = exported()
    content["images"] = [
        {"id": 1.0 + index, "file_name": f"{name}.jpg", "height": 40.0, "width": 60.0}
        for index, name in enumerate("ab")
    ]
    for annotation in content["annotations"]:
        annotation |= {"image_id": 1.0, "iscrowd": float(annotation["iscrowd"]) or None}
        annotation["category_id"] *= 1.0
    _, written, _ = converted(tmp_path, content, sizes=(SIZE, SIZE))
    assert len(written["annotations"][0]["segments_info"]) == 6
    assert written["images"][0] == {"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}
    assert type(written["images"][0]["height"]) is int
    assert sorted(s["iscrowd"] for s in written["annotations"][0]["segments_info"])[-2:] == [0, 1]


def test_bad_masks_are_left_out_counted_and_named(tmp_path):
    content = exported()
    expected = converted(tmp_path, exported())[2][0]
    content["annotations"][2]["segmentation"].append([50, 20, 55, 25])  # a stray click
    cut = run_lengths(0, 0, 2, 2, compressed=True)
    bad = {
        "a polygon is [1, 2], not": [[1, 2]],
        "a polygon is 1, not": [1, 2, 3, 4],
        "a box and no mask": None,
        "far outside of an image": [[0, 0, 2e8, 0, 9, 9]],
        "a mask is (40, 60), the image (5, 4)": {"size": [40, 60], "counts": [1]},
        "a damaged run-length code": cut | {"size": [5, 4], "counts": cut["counts"][:-2]},
        "neither polygons nor": 7,
        "no pixel of it is inside": box(8, 8, 9, 9),
    }
    content["annotations"] += [
        {"id": number, "image_id": "b", "category_id": 3, "segmentation": segmentation}
        for number, segmentation in enumerate(bad.values(), 50)
    ]
    notes, written, (ids, _) = converted(tmp_path, content)
    assert np.array_equal(ids, expected)  # the object with the stray click is whole
    assert written["annotations"][1]["segments_info"] == []
    text = "\n".join(notes)
    assert "annotation 3 of image 'a': a polygon is [50, 20, 55, 25]" in text
    assert [what for what in bad if what not in text] == []
    assert text.count("left out") == len(bad) + 4 + 1  # [1, 2, 3, 4] are four; one is hidden


def test_instances_overlap_as_the_option_says(tmp_path):
    content = exported()
    content["annotations"] = [content["annotations"][3], content["annotations"][2]]  # small, large
    of_option = {
        overlap: converted(tmp_path, content, overlap=overlap)[1]["annotations"][0]["segments_info"]
        for overlap in ("area", "order")
    }
    assert sorted(s["area"] for s in of_option["area"]) == [100, 700]
    assert [s["area"] for s in of_option["order"]] == [800]


def test_crowds_of_a_brush_become_objects(tmp_path):
    crowds = [
        [
            s["iscrowd"]
            for s in converted(tmp_path, exported(), crowds=c)[1]["annotations"][0]["segments_info"]
        ]
        for c in ("keep", "objects")
    ]
    assert [sum(each) for each in crowds] == [1, 0]


def test_images_without_annotations_are_kept_or_dropped(tmp_path):
    for empty, names in (("keep", ["a.jpg", "b.jpg"]), ("drop", ["a.jpg"])):
        notes, written, maps = converted(tmp_path, exported(), empty_images=empty)
        assert [image["file_name"] for image in written["images"]] == names
        assert len(maps) == len(names)
    assert "1 images of train have no annotation and are left out" in notes


def test_categories_of_one_name_are_one_class(tmp_path):
    content = exported()
    content["categories"].append({"id": 20, "name": "car "})
    content["annotations"][3]["category_id"] = 20
    notes, written, _ = converted(tmp_path, content)
    assert [c["name"] for c in written["categories"]] == ["sky", "car", "bug"]
    assert "2 categories are called 'car': they are one class" in notes
    cars = [s for s in written["annotations"][0]["segments_info"] if s["category_id"] == 8]
    assert len(cars) == 3


def test_a_class_without_instances_is_kept_and_named(tmp_path):
    content = exported()
    content["categories"].append({"id": 20, "name": "bus"})
    notes, written, _ = converted(tmp_path, content)
    assert written["categories"][-1]["name"] == "bus"
    assert "no segment is of bus: classes all the same" in notes


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("annotations/instances_Train.json", "train"),
        ("annotations/instances_train2017.json", "train"),
        ("annotations/instances_val_2.json", "val"),
        ("annotations/coco_val.json", "val"),
        ("valid_annotations.json", "val"),
        ("annotations/instances_minival.json", "minival"),
        ("annotations/instances_default.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("valid/instances.json", "val"),
        ("result.json", "train"),
    ],
)
def test_the_name_of_a_file_or_its_folder_says_which_split_it_is(tmp_path, file, split):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [],
    }
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    assert list(read(tmp_path).splits) == [split]
