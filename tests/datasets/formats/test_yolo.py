"""Ultralytics' data.yaml in its variants, and rows that are no polygons."""

import re

import pytest
import yaml

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.yolo import read
from tests.datasets.formats.exports import NAMES, draw, roboflow_yolo, ultralytics


@pytest.fixture
def root(tmp_path):
    ultralytics(tmp_path, draw(4), draw(2, "other", seed=1))
    return tmp_path


def change(root, **keys):
    file = root / "data.yaml"
    content = yaml.safe_load(file.read_text()) | keys
    file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


def instances(export, split="train", number=0):
    return export.splits[split][number].label()


def test_rows_are_polygons_in_pixels_of_classes_that_count_from_0(root):
    export = read(root)
    assert export.categories == [
        {"id": i, "name": name, "isthing": 1} for i, name in enumerate(NAMES)
    ]
    drawn = draw(4)[0]
    assert [i.category_id for i in instances(export)] == drawn.classes
    for instance, polygon in zip(instances(export), drawn.polygons, strict=True):
        assert instance.segmentation[0] == pytest.approx(polygon, abs=1e-5)
    assert instances(export, number=2) == []  # without a text file


def test_folders_may_be_named_in_every_way_of_ultralytics(root, tmp_path):
    names = [sample.image.name for sample in read(root).splits["train"]]
    change(root, path=str(root), names=NAMES)
    assert [s.image.name for s in read(root).splits["train"]] == names
    change(root, path="somewhere/else", train=["images/train"], nc=2)
    assert [s.image.name for s in read(root).splits["train"]] == names
    (root / "list.txt").write_text("".join(f"./images/train/{name}\n" for name in names[:2]))
    change(root, train="list.txt", test=None)
    assert [s.image.name for s in read(root).splits["train"]] == names[:2]
    assert len(instances(read(root))) == 3  # labels are found from the list's images
    roboflow = tmp_path / "roboflow"
    roboflow_yolo(roboflow, draw(4), draw(2))
    assert {k: len(v) for k, v in read(roboflow).splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 1,
    }


@pytest.mark.parametrize("place", ["/home/x/data", "C:\\data", "../elsewhere"])
def test_paths_of_another_machine_are_found_by_their_end(root, place):
    names = [sample.image.name for sample in read(root).splits["train"]]
    slash = "\\" if "\\" in place else "/"
    change(root, path=place, train=slash.join([place, "images", "train"]))
    assert [s.image.name for s in read(root).splits["train"]] == names
    lines = (slash.join([place, "images", "train", name]) for name in names)
    (root / "list.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    change(root, train="list.txt")
    assert len(instances(read(root))) == 3


def test_images_without_text_files_are_counted_and_refused_where_all_are(root):
    what = "1 of 4 images of train have no text file, such as .*labels/train/photo_002.txt"
    (note,) = read(root).notes
    assert re.match(f"{what}: they count as empty", note)
    (root / "labels" / "train").rename(root / "labels" / "Train")
    with pytest.raises(DatasetError, match=r"4 of 4 images .*photo_000.txt: put the labels"):
        read(root)


@pytest.mark.parametrize("names", ["ball", {"a": "ball"}, 3])
def test_names_must_be_a_list_or_numbered(root, names):
    change(root, names=names)
    with pytest.raises(DatasetError, match=r"data.yaml: names must be a list, or lines"):
        read(root)


def test_a_text_file_may_begin_with_a_byte_order_mark(root):
    file = root / "labels" / "train" / "photo_000.txt"
    file.write_bytes(b"\xef\xbb\xbf1 .1 .1 .5 .1 .5 .5\r\n")
    assert [i.category_id for i in instances(read(root))] == [1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nan 0.1 0.1 0.5 0.1 0.5 0.5", "class nan is none"),
        ("inf 0.1 0.1 0.5 0.1 0.5 0.5", "class inf is none"),
        ("0 0.1 0.1 x", r"photo_000.txt, line 1: '0 0.1 0.1 x' is not numbers"),
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", r"line 1: class 7 is none of data.yaml's 0..1"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "class 0.5 is none"),
    ],
)
def test_a_row_that_cannot_be_meant_is_named(root, row, message):
    (root / "labels" / "train" / "photo_000.txt").write_text(row)
    with pytest.raises(DatasetError, match=message):
        instances(read(root))


def test_boxes_have_no_pixels(root):
    (root / "labels" / "train" / "photo_000.txt").write_text("0 0.5 0.5 0.1 0.1\n\n")
    (box,) = instances(read(root))
    assert box.segmentation is None
    assert box.where.endswith("photo_000.txt, line 1")


def test_what_is_missing_is_named(root):
    change(root, train="images/nowhere")
    with pytest.raises(DatasetError, match=r"data.yaml: train: images/nowhere is missing"):
        read(root)
    (root / "images" / "empty").mkdir()
    change(root, train="images/empty")
    with pytest.raises(DatasetError, match=r"train: images/empty has no images"):
        read(root)
    (root / "data.yaml").unlink()
    with pytest.raises(DatasetError, match=r"no data.yaml with train, val and names"):
        read(root)
