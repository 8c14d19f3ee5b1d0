"""Custom datasets in both formats: records say what the files say, and what is wrong is named."""

import json
import logging
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.config.builder import find_target
from panoptic_dl.core.classes import load_classes
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.headers import check_records, fingerprint
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.data.cache import DecodedCache
from panoptic_dl.data.mapper import SemanticTrainMapper
from panoptic_dl.data.sources import open_source
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from tests.datasets.tiny_custom import CATEGORIES, JSON, classes_of, edit, register, write_own
from tests.datasets.tiny_datasets import panoptic_mapper, write_coco

FORMS = ("coco_format", "cityscapes_format")


@pytest.fixture(params=FORMS)
def form(request):
    return request.param


@pytest.fixture
def root(tmp_path, form):
    return write_own(tmp_path / "my data", form=form, train=3, val=2)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".JPEG"])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_records_say_what_the_files_say(tmp_path, form, task, suffix):
    root = write_own(tmp_path, form=form, train=4, val=1, suffix=suffix)
    classes = classes_of(root, form)
    by_name = {category["name"]: category for category in CATEGORIES}
    records = DatasetCatalog.get(register(root, form, task=task))
    content = json.loads((root / JSON[form].format("train")).read_text(encoding="utf-8"))
    assert [r["image_id"] for r in records] == [a["image_id"] for a in content["annotations"]]
    for record, annotation in zip(records, content["annotations"], strict=True):
        with Image.open(record["file_name"]) as image, Image.open(record["pan_seg_file_name"]) as p:
            assert image.size == p.size
            ids = rgb2id(np.asarray(p))
        assert Path(record["file_name"]).suffix == suffix
        truth = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert sorted(truth) == sorted(set(np.unique(ids).tolist()) - {0})
        for segment in record["segments_info"]:
            category = by_name[classes.names[segment["category_id"]]]
            assert category["id"] == truth[segment["id"]]["category_id"]
            assert segment["isthing"] == bool(category["isthing"])
            assert segment["iscrowd"] == truth[segment["id"]].get("iscrowd", 0)
        # Semantic labels, from the same PNG, pixel by pixel.
        label = SemanticLabelReader(num_classes=len(classes))(record)
        expected = np.full(ids.shape, 255)
        for number, segment in truth.items():
            name = next(c["name"] for c in CATEGORIES if c["id"] == segment["category_id"])
            expected[ids == number] = classes.names.index(name)
        np.testing.assert_array_equal(label, expected)


def test_both_mappers_take_the_records(root, form):
    names = {task: register(root, form, task=task) for task in ("panoptic", "semantic")}
    number = len(CATEGORIES)
    sample = panoptic_mapper(num_classes=number)(DatasetCatalog.get(names["panoptic"])[0])
    mapper = SemanticTrainMapper(augmentations=[], num_classes=number)
    semantic = mapper(DatasetCatalog.get(names["semantic"])[0])
    assert (sample["sem_seg"] == semantic["sem_seg"]).all()


def test_metadata_serve_detectron2_and_colors_are_those_of_the_classes(root, form):
    classes = classes_of(root, form)
    metadata = MetadataCatalog.get(register(root, form, part="test"))
    assert metadata.stuff_classes == metadata.thing_classes == list(classes.names)
    assert metadata.stuff_colors == [list(color) for color in classes.colors]
    assert sorted(metadata.thing_dataset_id_to_contiguous_id.values()) == list(classes.thing_ids)
    semantic = MetadataCatalog.get(register(root, form, task="semantic"))
    assert semantic.get("thing_dataset_id_to_contiguous_id") is None
    assert len(semantic.stuff_dataset_id_to_contiguous_id) == len(classes)


def test_numbers_of_the_config_are_those_of_the_catalog(root, form):
    base = [f"dataset={form}", f"dataset.root={root}", "dataset.label_divisor=10000"]
    for task in ("panoptic", "semantic"):
        config = compose([*base, "dataset.ignore_label=200"])
        metadata = MetadataCatalog.get(build(config.dataset.test[task]))
        assert (metadata.label_divisor, metadata.ignore_label) == (10_000, 200)
        config = compose([*base, "dataset.ignore_label=1"])  # whose classes the files decide on
        with pytest.raises(DatasetError, match=r"dataset.ignore_label=1 must be .*no class has"):
            build(config.dataset.test[task])


def test_colors_of_the_training_split_serve_the_test_split(root, form):
    edit(root, lambda c: c["categories"][0].update(color=[1, 2, 3]), form)
    colors = [
        MetadataCatalog.get(register(root, form, part=part)).stuff_colors
        for part in ("train", "test")
    ]
    assert colors[0] == colors[1]
    assert [1, 2, 3] in colors[1]


def test_coco_itself_is_own_data_as_well(tmp_path):
    from panoptic_dl.datasets.coco import coco_panoptic

    write_coco(tmp_path, train=3, val=1)
    theirs = coco_panoptic(root=str(tmp_path), split="train")
    ours = register(tmp_path / "coco")
    expected = DatasetCatalog.get(theirs)
    for segment in (segment for record in expected for segment in record["segments_info"]):
        del segment["bbox"]  # which nothing reads
    assert DatasetCatalog.get(ours) == expected
    for key in ("stuff_classes", "thing_dataset_id_to_contiguous_id", "panoptic_json"):
        assert MetadataCatalog.get(ours).get(key) == MetadataCatalog.get(theirs).get(key)


@pytest.mark.parametrize(
    ("images", "labels", "annotations"),
    [
        ("train2017", "panoptic_train2017", "annotations/panoptic_train2017.json"),
        ("images/train", "annotations/panoptic_train", "annotations/panoptic_train.json"),
        ("images", "annotations/panoptic_train2017", "annotations/panoptic_train.json"),
    ],
)
def test_usual_places_are_found(tmp_path, images, labels, annotations):
    root = write_own(tmp_path, train=2, val=1)
    (root / "images").mkdir()
    for before, after in (("train", images), ("panoptic_train", labels)):
        if (root / after).is_dir():
            (root / after).rmdir()
        shutil.move(root / before, root / after)
    shutil.move(root / JSON["coco_format"].format("train"), root / annotations)
    assert len(DatasetCatalog.get(register(root))) == 2


def test_places_may_be_named_inside_and_outside_the_root(tmp_path):
    root = write_own(tmp_path / "a", train=2, val=1)
    shutil.move(root / "annotations" / "panoptic_train.json", root / "mine.json")
    shutil.move(root / "train", tmp_path / "photos")
    shutil.move(root / "panoptic_train", root / "masks")
    places = {"json": "mine.json", "images": str(tmp_path / "photos"), "labels": "masks"}
    records = DatasetCatalog.get(register(root, **places))
    assert len(records) == 2
    assert records[0]["file_name"].startswith(str(tmp_path / "photos"))


def zip_folder(folder, target, inside, method):
    """Move the files of a folder into a zip archive, below the folder `inside` of it."""
    with zipfile.ZipFile(target, "w", method) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, os.path.join(inside, file.relative_to(folder)))
        archive.writestr("__MACOSX/._x", "of a Mac")
    shutil.rmtree(folder)
    return target


@pytest.mark.parametrize("inside", ["", "train2017", "deep/er"])
@pytest.mark.parametrize("named", [True, False])
def test_archives_are_read_as_their_folders_are(tmp_path, form, inside, named):
    whole = write_own(tmp_path / "whole", form=form, suffix=".jpg", train=3, val=1)
    root = tmp_path / "packed"
    shutil.copytree(whole, root)
    folders = {"images": "train", "labels": "panoptic_train"}
    if form == "cityscapes_format":
        folders = {"images": "leftImg8bit/train", "labels": "gtFine/cityscapes_panoptic_train"}
    places = {}
    for key, folder in folders.items():
        archive = tmp_path / f"{key}.zip" if named else root / f"{folder}.zip"
        method = zipfile.ZIP_STORED if key == "images" else zipfile.ZIP_DEFLATED
        zip_folder(root / folder, archive, inside, method)
        places |= {key: str(archive)} if named else {}
    before = tree(tmp_path)
    records = DatasetCatalog.get(register(root, form, **places))
    expected = DatasetCatalog.get(register(whole, form))
    mapper, cache = panoptic_mapper(num_classes=6), DecodedCache(str(tmp_path / "cache"), 1)
    for record, other in zip(records, expected, strict=True):
        assert ".zip/" in record["file_name"]
        assert ".zip/" in record["pan_seg_file_name"]
        sample, whole_sample = mapper(record), mapper(other)
        for key in ("image", "sem_seg", "center", "offset"):
            assert torch.equal(sample[key], whole_sample[key])
        for _ in range(2):
            pixels = open_source(record["file_name"], "RGB", cache).rows()
            assert np.array_equal(pixels, open_source(other["file_name"], "RGB").rows())
    check_records("train", records)
    assert fingerprint(records) == fingerprint(expected)
    shutil.rmtree(tmp_path / "cache")
    assert tree(tmp_path) == before


def tree(folder):
    """Names and states of all files and folders."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (s.st_mtime_ns, s.st_size, s.st_ino, s.st_mode) for path, s in found.items()}


def test_what_an_archive_lacks_is_named(tmp_path):
    root = write_own(tmp_path, train=3, val=1)
    (root / "train/img 1.png").unlink()
    archive = zip_folder(root / "train", tmp_path / "mine.zip", "", zipfile.ZIP_STORED)
    with pytest.raises(DatasetError, match=r"file missing: .*mine.zip/img 1.png \(1 of 3"):
        register(root, images="mine.zip")
    archive.write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(DatasetError, match=r"mine.zip is no whole zip archive"):
        register(root, images="mine.zip")
    archive.unlink()
    with pytest.raises(DatasetError, match=r"folder missing: .*mine.zip"):
        register(root, images="mine.zip")
    (tmp_path / "mine.tar.gz").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"mine.tar.gz is a tar archive.*unpack it"):
        register(root, images="mine.tar.gz")


def test_images_may_lie_in_folders_of_their_own(tmp_path):
    root = write_own(tmp_path, train=2, val=1)
    for index, place in enumerate(("cam 1", "cam 2/night")):
        (root / "train" / place).mkdir(parents=True)
        shutil.move(root / "train" / f"img {index}.png", root / "train" / place / "same.png")
    edit(
        root,
        lambda c: [
            image.update(file_name=f"./{place}/same.png")
            for image, place in zip(c["images"], ("cam 1", "cam 2/night"), strict=True)
        ],
    )
    records = DatasetCatalog.get(register(root))
    assert all(os.path.isfile(record["file_name"]) for record in records)
    assert len({record["file_name"] for record in records}) == 2


def test_one_folder_may_serve_training_and_test(tmp_path):
    root = write_own(tmp_path, all=2)
    places = {"train_split": "all", "test_split": "all"}
    classes = classes_of(root, **places)
    # One name of a split, and two files: the entries must not replace each other.
    shutil.copytree(root / "annotations", root / "held out")
    edit(root, lambda c: c["annotations"].pop(), split="all")
    files = {"train": None, "test": "held out/panoptic_all.json"}
    names = [
        custom_dataset(
            form="coco_format",
            task="panoptic",
            part=part,
            classes=classes,
            root=str(root),
            split="all",
            json=file,
        )
        for part, file in files.items()
    ]
    assert [len(DatasetCatalog.get(name)) for name in names] == [1, 2]


def test_sizes_of_the_json_are_taken_where_they_are(root, form):
    edit(root, lambda c: c["images"][0].update(height=60, width=80), form)
    first, second, _ = DatasetCatalog.get(register(root, form))
    assert (first["height"], first["width"]) == (60, 80)
    assert "height" not in second


def test_images_without_annotation_are_left_out_aloud(root, form, caplog):
    edit(root, lambda c: c["annotations"].pop(0), form)
    with caplog.at_level(logging.WARNING):
        assert len(DatasetCatalog.get(register(root, form))) == 2
    assert "1 of its 3 images have no annotation and are left out" in caplog.text


def test_changed_files_are_looked_at_again(tmp_path):
    root = write_own(tmp_path, train=2, val=1)
    assert len(DatasetCatalog.get(register(root))) == 2
    (root / "train" / "img 1.png").unlink()
    with pytest.raises(DatasetError, match=r"file missing: .*img 1.png \(1 of 2 such files"):
        register(root)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_a_test_split_may_be_without_ground_truth(root, form, task):
    def leave_images(content):
        del content["annotations"], content["categories"]

    edit(root, leave_images, form, "val")
    name = register(root, form, "test", task)
    for record in DatasetCatalog.get(name):
        assert record.keys() - {"height", "width"} == {"file_name", "image_id"}
        assert Path(record["file_name"]).is_file()
    metadata = MetadataCatalog.get(name)
    assert metadata.has_truth is False
    of_training = MetadataCatalog.get(register(root, form, "train", task)).as_dict()
    for key, value in of_training.items():
        if key.endswith(("_classes", "_contiguous_id")):
            assert metadata.get(key) == value
    with pytest.raises(DatasetError, match="missing or empty"):
        register(root, form, "train", task, split="val")


def test_ids_of_categories_must_be_known(root, form, tmp_path):
    edit(root, lambda content: content.pop("annotations"), form, "val")
    classes = replace(classes_of(root, form), category_ids=())
    with pytest.raises(DatasetError, match="no ids of categories"):
        custom_dataset(
            form=form, task="panoptic", part="test", classes=classes, root=str(root), split="val"
        )


def test_a_test_split_alone_has_the_same_classes(root, form):
    before = classes_of(root, form)
    (root / JSON[form].format("train")).unlink()
    assert classes_of(root, form) == before
    assert len(DatasetCatalog.get(register(root, form, part="test"))) == 2


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda categories: categories.pop(), "5 classes, not 6"),
        (lambda categories: categories[0].update(name="belt"), "'belt', not 'Förderband'"),
        (lambda categories: categories[0].update(isthing=1), "class .* is .*, not '"),
    ],
)
def test_a_split_of_other_classes_is_refused(root, form, change, difference):
    file = edit(root, lambda content: change(content["categories"]), form, "val")
    with pytest.raises(DatasetError, match=difference) as caught:
        register(root, form, part="test")
    assert f"{file} has other categories than dataset.classes" in str(caught.value)


def test_classes_of_a_run_need_no_dataset_and_must_be_those_of_one(root, form, tmp_path):
    classes = classes_of(root, form)
    file = tmp_path / "classes.json"
    file.write_text(classes.to_json())
    assert load_classes(file) == classes
    assert classes_of(None, form, classes_file=str(file)) == classes
    file.write_text(classes.to_json().replace("screw", "bolt"))
    other = classes_of(root, form, classes_file=str(file))
    with pytest.raises(DatasetError, match=r"has other categories .*'screw', not 'bolt'"):
        custom_dataset(
            form=form, task="panoptic", part="test", classes=other, root=str(root), split="val"
        )
    with pytest.raises(DatasetError, match=r"dataset.classes_file: cannot read .*none.json"):
        classes_of(None, form, classes_file=str(tmp_path / "none.json"))


def first_segment(**entries):
    return lambda c: c["annotations"][0]["segments_info"][0].update(entries)


def set_in(key, index=0, /, **entries):
    return lambda c: c[key][index].update(entries)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].pop(0), r"an annotation of image .* is not among its"),
        (lambda c: c["images"].append(c["images"][0]), r"lists image .* twice"),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            r"is the second one; put all",
        ),
        (set_in("images", id=None), r"needs an \"id\", a number or text"),
        (set_in("images", id=1.5), r"needs an \"id\", a number or text"),
        (
            lambda c: c["annotations"][0].pop("segments_info"),
            r"this is no panoptic file. Of",
        ),
        (lambda c: c["annotations"][0].pop("file_name"), r"\"file_name\" of the annotation of"),
        (set_in("annotations", file_name="/etc/passwd"), r"relative to the folder of these files"),
        (set_in("annotations", file_name="../../x.png"), r"relative to the folder of these files"),
        (set_in("annotations", file_name="none.png"), r"file missing: none.png, which .*lists"),
        (set_in("annotations", 1, file_name="none.png"), r"file missing: .*/none.png \(1 of 3"),
        (set_in("annotations", segments_info={}), r"this is no panoptic file. Of"),
        (first_segment(id=0), r"segment 0 of label-0.png: ids are whole numbers from 1 to"),
        (first_segment(id=256**3), r"segment 16777216 of label-0.png: ids are whole numbers"),
        (first_segment(id="7"), r"segment '7' of label-0.png: ids are whole numbers"),
        (first_segment(category_id=5), r"has the category_id 5, which is not among the \"cat"),
        (first_segment(category_id=None), r"has the category_id None"),
        (first_segment(iscrowd="no"), r"\"iscrowd\" is 'no'; write 0 or 1"),
        (first_segment(area="9"), r"\"area\" is '9'; write a number of pixels, or leave it out"),
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


@pytest.mark.parametrize(
    ("listed", "lies", "how"),
    [
        ("a.jpg", "a.JPG", ""),
        ("a.jpg", "a.png", ""),
        ("a.jpg", "sub/a.jpg", ""),
        ("sub/a.jpg", "a.jpg", ""),
        ("sub\\a.jpg", "sub/a.jpg", ""),
        ("\u00fc.jpg", "u\u0308.jpg", " (another Unicode form"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_a_file_of_almost_that_name_is_named(tmp_path, listed, lies, how, position):
    root = write_own(tmp_path, train=2, val=1)
    lying = root / "train" / lies
    lying.parent.mkdir(exist_ok=True)
    (root / "train" / f"img {position}.png").rename(lying)
    edit(root, lambda content: content["images"][position].update(file_name=listed))
    with pytest.raises(DatasetError) as caught:
        register(root)
    assert f"there is {lying}{how}" in str(caught.value)


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


def test_saved_configs_find_the_functions_by_their_old_names():
    old = "panoptic_dl.data.catalog.own_data"
    assert find_target(f"{old}.own_dataset") is custom_dataset
    assert find_target(f"{old}.own_classes") is custom_classes
