"""Exports of annotation tools become panoptic labels, held against pycocotools' and plain masks."""

import json
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl.config import compose
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets import importing
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.datasets.importing import import_dataset, recognize
from tests.datasets.formats import exports


@pytest.fixture(scope="session")
def drawn():
    images = exports.draw(8)
    return images[:5], images[5:]


def imported(root, tmp_path, form, **options):
    return Path(import_dataset(form=form, root=str(root), cache=str(tmp_path / "cache"), **options))


def labels(folder, split):
    """Ids, segments and category names of the images of a split, by the stem of the image."""
    content = json.loads((folder / "annotations" / f"panoptic_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    return {
        files[a["image_id"]]: (
            rgb2id(np.asarray(Image.open(folder / f"panoptic_{split}" / a["file_name"]))),
            {s["id"]: names[s["category_id"]] for s in a["segments_info"]},
        )
        for a in content["annotations"]
    }


@pytest.mark.parametrize(("form", "write"), exports.INSTANCES.values(), ids=exports.INSTANCES)
def test_objects_of_every_tool_are_those_that_were_drawn(tmp_path, drawn, form, write):
    root = tmp_path / "export"
    write(root, *drawn)
    name, _, command = recognize(root)
    assert name == form
    assert command == (f"python run.py dataset={form} dataset.root={root}")
    folder = imported(root, tmp_path, form)
    found = {**labels(folder, "train"), **labels(folder, "val")}
    assert found.keys() == {image.name for part in drawn for image in part}
    for image in (image for part in drawn for image in part):
        ids, names = found[image.name]
        for number in range(image.numbers().max() + 1):
            (label,) = np.unique(ids[image.numbers() == number])
            wanted = exports.NAMES[image.classes[number - 1]] if number else "background"
            assert names[label] == wanted
        assert len(names) == len(np.unique(image.numbers()))


@pytest.mark.parametrize(("form", "write"), exports.MASKS.values(), ids=exports.MASKS)
def test_masks_of_every_kind_are_those_that_were_drawn(tmp_path, drawn, form, write):
    root = tmp_path / "export"
    write(root, *drawn)
    _, _, command = recognize(root)
    assert command == (f"python run.py task=semantic dataset={form} dataset.root={root}")
    folder = imported(root, tmp_path, form)
    found = {**labels(folder, "train"), **labels(folder, "val")}
    for image in (image for part in drawn for image in part):
        ids, names = found[image.name]
        table = np.array(["background", *exports.NAMES])
        of_ids = np.vectorize(names.get)(ids)
        assert (of_ids == table[image.semantic()]).all()


@pytest.mark.parametrize(("form", "write"), exports.PANOPTIC.values(), ids=exports.PANOPTIC)
def test_panoptic_exports_are_recognized_and_read_as_they_are(tmp_path, drawn, form, write):
    write(tmp_path, *drawn)
    assert recognize(tmp_path)[2] == f"python run.py dataset={form} dataset.root={tmp_path}"
    classes = custom_classes(form=form, root=str(tmp_path), train_split="train", test_split="val")
    assert classes.names == ("ball", "box", "background")
    name = custom_dataset(
        form=form, task="panoptic", part="train", classes=classes, root=str(tmp_path), split="train"
    )
    assert len(DatasetCatalog.get(name)) == len(drawn[0])


def test_the_reader_of_custom_datasets_takes_it(tmp_path, drawn):
    root = tmp_path / "export"
    exports.roboflow_coco(root, *drawn)
    folder = imported(root, tmp_path, "coco_instances")
    of_both = {"form": "coco_instances", "root": str(folder)}
    classes = custom_classes(**of_both, train_split="train", test_split="val")
    assert classes.names == ("ball", "box", "background")
    assert classes.thing_ids == (0, 1)
    name = custom_dataset(
        **of_both, task="panoptic", part="test", classes=classes, split="val", images=str(root)
    )
    records = DatasetCatalog.get(name)
    assert [Path(r["file_name"]).parent.name for r in records] == ["valid"] * 3
    assert all(Path(record["file_name"]).is_file() for record in records)


def test_it_is_converted_once_until_something_changes(tmp_path, drawn, caplog):
    root = tmp_path / "export"
    exports.ultralytics(root, *drawn)
    before = {file: file.stat().st_mtime_ns for file in sorted(root.rglob("*"))}
    first = imported(root, tmp_path, "yolo")
    assert {file: file.stat().st_mtime_ns for file in sorted(root.rglob("*"))} == before
    importing._import.cache_clear()  # as in another process
    (root / ".DS_Store").touch()  # as macOS does when one looks into a folder
    assert imported(root, tmp_path, "yolo") == first
    assert imported(root, tmp_path, "yolo", background="void") != first
    label = root / "labels" / "train" / f"{drawn[0][0].name}.txt"
    label.write_text(label.read_text().replace("0 ", "1 ", 1))
    importing._import.cache_clear()
    assert imported(root, tmp_path, "yolo") != first


def test_a_split_to_validate_on_is_drawn_by_fraction_and_seed(tmp_path, drawn, caplog):
    root = tmp_path / "export"
    exports.labelme(root, *drawn)
    parts = {}
    for key in ({}, {"val_fraction": 0.5}, {"split_seed": 3}):
        folder = imported(root, tmp_path, "labelme", **key)
        train, val = labels(folder, "train"), labels(folder, "val")
        assert len({*train, *val}) == 8
        parts[str(key)] = sorted(val)
    assert [len(part) for part in parts.values()] == [2, 4, 2]
    assert len(set(map(str, parts.values()))) == 3
    note = "2 of 8 images are drawn for it (dataset.val_fraction=0.2 dataset.split_seed=0)"
    assert note in caplog.text
    importing._import.cache_clear()  # as in another process, where all is converted already
    caplog.clear()
    imported(root, tmp_path, "labelme")
    assert note in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": "sky"}, "dataset.background=sky is unknown; choose stuff, void"),
        ({"val_fraction": 1.0}, "dataset.val_fraction=1.0 must be a number, above 0 and below 1"),
        ({"stuff": ["tree"]}, "dataset.stuff=tree is none of the classes: ball, box"),
        (
            {"train_split": "tiny"},
            r"no split 'tiny'; .* train \(5\), val \(3\).*train_split",
        ),
        ({"test_split": "tiny"}, "choose by dataset.test_split=NAME"),
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path, drawn, options, message):
    exports.ultralytics(tmp_path, *drawn)
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, tmp_path, "yolo", **options)


def test_another_format_is_named_with_its_command(tmp_path, drawn):
    root = tmp_path / "export"
    exports.ultralytics(root / "inside", *drawn)
    command = f"python run.py dataset=yolo dataset.root={root / 'inside'}"
    for form in ("labelme", "yolo"):  # as an archive is unpacked, one folder too high
        how = "lies one folder deeper than" if form == "yolo" else "is not what lies in"
        with pytest.raises(DatasetError, match=f"={form} {how} .*\n.*{command}"):
            imported(root, tmp_path, form)
    with pytest.raises(DatasetError, match=f"coco_format is not what lies in .*\n.*{command}"):
        custom_classes(form="coco_format", root=str(root), train_split="train", test_split="val")
    (tmp_path / "own" / "pictures").mkdir(parents=True)
    (tmp_path / "own" / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(DatasetError, match=r"CVAT's own XML, which is not read\n.*COCO 1.0"):
        imported(tmp_path / "own", tmp_path, "yolo")
    for missing, message in (("x", "does not exist"), ("own/annotations.xml", "unpack")):
        with pytest.raises(DatasetError, match=message):
            imported(tmp_path / missing, tmp_path, "yolo")


def test_one_folder_too_high_masks_of_objects_are_not_taken_for_classes_alone(tmp_path, drawn):
    exports.cvat_masks(tmp_path / "inside", *drawn)
    assert recognize(tmp_path)[2] == (
        f"python run.py dataset=cvat_masks dataset.root={tmp_path / 'inside'}"
    )


def test_the_command_is_fit_for_a_shell_and_an_archive_is_to_be_unpacked(tmp_path, drawn):
    root = tmp_path / "my data (1)"
    exports.roboflow_coco(root, *drawn)
    command = f"python run.py dataset=coco_instances 'dataset.root={root}'"
    assert recognize(root)[2] == command
    with pytest.raises(DatasetError, match=re.escape(command)):
        imported(root, tmp_path, "yolo")
    packed = shutil.make_archive(str(tmp_path / "data"), "zip", root)
    with pytest.raises(DatasetError, match=r"dataset=coco_format: .*data.zip is a file: unpack"):
        custom_classes(form="coco_format", root=packed, train_split="train", test_split="val")


def test_what_is_not_there_is_named_and_not_the_same_command_again(tmp_path, drawn):
    root = tmp_path / "export"
    exports.cvat_masks(root, *drawn)
    (root / "JPEGImages").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match=r"JPEGImages.*\n.*\n.*export with images"):
        imported(root, tmp_path, "cvat_masks")
    empty = tmp_path / "empty"
    exports.labelme(empty, [drawn[0][2]], [drawn[0][2]])
    with pytest.raises(DatasetError, match="has no classes: nothing is annotated"):
        imported(empty, tmp_path, "labelme")


def test_classes_of_a_run_need_no_dataset(tmp_path, drawn):
    gone = {"form": "yolo", "root": str(tmp_path / "gone")}
    assert import_dataset(**gone, classes_file="classes.json") is None
    with pytest.raises(DatasetError, match="gone does not exist"):
        import_dataset(**gone)


def test_what_is_left_out_is_counted_by_kind_and_boxes_alone_are_refused(tmp_path, drawn, caplog):
    root = tmp_path / "export"
    exports.ultralytics(root, *drawn)
    files = sorted((root / "labels").rglob("*.txt"))
    for file in files:
        file.write_text(file.read_text() + "0 0.5 0.5 0.1 0.1\n")
    folder = imported(root, tmp_path, "yolo")
    more = f"it is left out ({len(files) - 1} more such, in {folder / 'notes.txt'})"
    assert len([r for r in caplog.records if "has a box and no mask" in r.getMessage()]) == 1
    assert more in caplog.text
    for file in files:
        file.write_text("0 0.5 0.5 0.1 0.1\n")
    importing._import.cache_clear()
    with pytest.raises(DatasetError, match=r"no object in .* has a mask: export masks or polygons"):
        imported(root, tmp_path, "yolo")


def test_names_are_the_same_in_every_form_of_unicode_and_images_listed_twice_are_counted(
    tmp_path, caplog
):
    images = exports.draw(3)
    images[0].name = unicodedata.normalize("NFC", "B\u00e4ume")
    exports.cvat_task_coco(tmp_path / "export", images, [])
    (file,) = (tmp_path / "export").rglob("B*.jpg")
    file.rename(file.with_name(unicodedata.normalize("NFD", file.name)))
    folder = imported(tmp_path / "export", tmp_path, "coco_instances", test_split="train")
    assert len(labels(folder, "train")) == 3
    (listed,) = (tmp_path / "export").rglob("*.json")
    (listed.parent / "copy.json").write_bytes(listed.read_bytes())
    listed.rename(listed.parent / "annotations.json")
    importing._import.cache_clear()
    imported(tmp_path / "export", tmp_path, "coco_instances", test_split="train")
    assert "3 images are listed again" in caplog.text


def test_keys_of_coco_format_that_an_import_does_not_read_are_unknown():
    with pytest.raises(ValueError, match=r"Unknown key 'dataset.train_images'"):
        compose(["dataset=yolo", "dataset.root=x", "dataset.train_images=y"])


def test_images_outside_of_the_folder_are_named(tmp_path, drawn):
    exports.ultralytics(tmp_path / "data", *drawn)
    text = (tmp_path / "data" / "data.yaml").read_text()
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "data.yaml").write_text(text.replace("path: .", f"path: {tmp_path}/data"))
    with pytest.raises(DatasetError, match=r"photo_000.jpg is outside of dataset.root=.*conf: put"):
        imported(tmp_path / "conf", tmp_path, "yolo")
