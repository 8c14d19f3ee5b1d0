"""What is wrong with own data is named, with its file and the cure."""

import shutil

import pytest

from panoptic_dl.core.errors import DatasetError
from tests.data.own_small import CATEGORIES, classes_of, edit, register, write_own

FORMS = ("coco_format", "cityscapes_format")


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def root(tmp_path, form):
    return write_own(tmp_path / "my data", form=form, train=3, val=2)


def first_segment(**entries):
    return lambda c: c["annotations"][0]["segments_info"][0].update(entries)


def set_in(key, index=0, /, **entries):
    return lambda c: c[key][index].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].pop(0), r"an annotation is of image .*, which is not among its"),
        (lambda c: c["images"].append(c["images"][0]), r"lists image .* twice"),
        (lambda c: c["annotations"].append(c["annotations"][0]), r"has two annotations of image"),
        (set_in("images", id=None), r"needs an \"id\", a number or text"),
        (set_in("images", id=1.5), r"needs an \"id\", a number or text"),
        (lambda c: c["annotations"][0].pop("segments_info"), r"this is no panoptic file. One of"),
        (lambda c: c["annotations"][0].pop("file_name"), r"\"file_name\" of the annotation of"),
        (set_in("annotations", file_name="/etc/passwd"), r"relative to the folder of these files"),
        (set_in("annotations", file_name="../../x.png"), r"relative to the folder of these files"),
        (set_in("annotations", file_name="none.png"), r"file missing: none.png, which .*lists"),
        (set_in("annotations", 1, file_name="none.png"), r"file missing: .*/none.png \(1 of 3"),
        (set_in("annotations", segments_info={}), r"segments_info of image .* is no list"),
        (first_segment(id=0), r"segment 0 of label-0.png: ids are whole numbers from 1 to"),
        (first_segment(id=256**3), r"segment 16777216 of label-0.png: ids are whole numbers"),
        (first_segment(id="7"), r"segment '7' of label-0.png: ids are whole numbers"),
        (first_segment(category_id=5), r"has the category_id 5, which is not among the \"cat"),
        (first_segment(category_id=None), r"has the category_id None"),
        (first_segment(iscrowd="no"), r"\"iscrowd\" is 'no'; write 0 or 1"),
        (
            lambda c: c["annotations"][0]["segments_info"].append(
                c["annotations"][0]["segments_info"][0]
            ),
            r"of label-0.png is listed twice",
        ),
        (lambda c: c.pop("images"), r"its \"images\" are missing or empty"),
        (lambda c: c["annotations"].clear(), r"its \"annotations\" are missing or empty"),
    ],
)
def test_what_cannot_be_is_named(root, form, change, message):
    file = edit(root, change, form)
    with pytest.raises(DatasetError, match=message) as caught:
        register(root, form)
    assert file.name in str(caught.value) or "such files" in str(caught.value)


@pytest.mark.parametrize("name", [None, "", 3, "/home/x/1.png", "../val/img 0.png"])
def test_names_of_images_stay_in_their_folder(tmp_path, name):
    root = write_own(tmp_path, train=2, val=1)
    edit(root, set_in("images", file_name=name))
    with pytest.raises(DatasetError, match='"file_name" of image 10000 is') as caught:
        register(root)
    assert repr(name) in str(caught.value)


def test_mixed_kinds_of_image_ids_are_refused(tmp_path):
    root = write_own(tmp_path, train=2, val=1)
    edit(root, lambda c: [c[k][0].update({i: "a"}) for k, i in IDS])
    with pytest.raises(DatasetError, match="some image ids are numbers and some texts"):
        register(root)


IDS = (("images", "id"), ("annotations", "image_id"))


def test_a_missing_image_names_file_and_folders(tmp_path):
    root = write_own(tmp_path / "c", train=2, val=1)
    (root / "train" / "img 0.png").unlink()
    with pytest.raises(DatasetError, match=r"img 0.png, which .*panoptic_train.json lists") as c:
        register(root)
    assert "dataset.train_images=FOLDER" in str(c.value)
    root = write_own(tmp_path / "s", form="cityscapes_format", train=2, val=1)
    next((root / "leftImg8bit").rglob("x_000001*")).unlink()
    with pytest.raises(DatasetError, match=r"<city>/x_000001_000000_leftImg8bit.\* \(1 of 2"):
        register(root, "cityscapes_format")


def test_two_files_for_an_image_of_cityscapes_are_refused(tmp_path):
    root = write_own(tmp_path, form="cityscapes_format", train=1, val=1)
    image = next((root / "leftImg8bit" / "train").rglob("*.png"))
    (root / "leftImg8bit" / "train" / "y").mkdir()
    shutil.copy(image, root / "leftImg8bit" / "train" / "y" / image.with_suffix(".jpg").name)
    with pytest.raises(DatasetError, match="two files are image x_000000_000000"):
        register(root, "cityscapes_format")


def test_missing_roots_and_splits_name_the_cure(tmp_path, form):
    with pytest.raises(DatasetError, match=rf"dataset={form} needs dataset.root=FOLDER"):
        classes_of(None, form)
    with pytest.raises(DatasetError, match=r"folder missing: .*none(?s:.*)dataset.root=FOLDER"):
        classes_of(tmp_path / "none", form)
    with pytest.raises(DatasetError, match=r"file missing: .*panoptic_train") as caught:
        classes_of(tmp_path, form)
    assert "dataset.train_json=FILE" in str(caught.value)
    assert "dataset.classes_file=RUN/classes.json" in str(caught.value)
    root = write_own(tmp_path, form=form, train=1)  # no validation split
    assert len(classes_of(root, form)) == len(CATEGORIES)
    with pytest.raises(DatasetError, match=r"panoptic_val.*(?s:.*)dataset.test_split=NAME"):
        register(root, form, part="test")
