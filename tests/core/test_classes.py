"""Classes are those of the dataset's config, and a run keeps to its own."""

import json
import os

import pytest
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from panoptic_dl.config import build, compose
from panoptic_dl.core.classes import CLASSES as FILE
from panoptic_dl.core.classes import (
    Classes,
    load_classes,
    record_classes,
    require_classes,
    require_no_class,
)
from panoptic_dl.core.errors import DatasetError


@pytest.mark.parametrize("dataset", ["cityscapes", "coco", "toy_cityscapes", "toy_coco"])
def test_names_colors_and_things_are_those_of_the_config(dataset):
    config = compose([f"dataset={dataset}"]).dataset
    classes = build(config.classes)
    assert len(classes) == config.num_classes
    assert list(classes.thing_ids) == list(config.thing_ids)


def test_coco_names_are_detectron2s():
    classes = build(compose(["dataset=coco"]).dataset.classes)
    metadata = _get_builtin_metadata("coco_panoptic_standard")
    assert list(classes.names) == metadata["stuff_classes"]
    assert [list(color) for color in classes.colors] == metadata["stuff_colors"]


def test_what_is_no_set_of_classes_is_refused():
    with pytest.raises(ValueError, match="2 names of classes, but 1 colors"):
        Classes(("a", "b"), ((0, 0, 0),), ())
    with pytest.raises(ValueError, match=r"thing 1 is none of the classes 0\.\.0"):
        Classes(("a",), ((0, 0, 0),), (1,))


CLASSES = Classes(("Förderband", "box"), ((1, 2, 3), (255, 0, 9)), (1,), (70, 4))
OTHERS = [
    (Classes(("box", "Förderband"), CLASSES.colors, (1,)), "class 0 is 'box', not 'Förderband'"),
    (Classes(CLASSES.names, CLASSES.colors, ()), r"class 1 \('box'\) is stuff, not a thing"),
    (Classes(("box",), ((0, 0, 0),), ()), "1 classes, not 2"),
]


def test_the_file_is_plain_and_reads_back(tmp_path):
    record_classes(CLASSES, tmp_path)
    assert json.loads((tmp_path / FILE).read_text()) == {
        "names": ["Förderband", "box"],
        "colors": [[1, 2, 3], [255, 0, 9]],
        "thing_ids": [1],
        "category_ids": [70, 4],
    }
    assert (tmp_path / FILE).read_bytes().isascii()
    assert load_classes(tmp_path / FILE) == CLASSES
    assert Classes.of_categories(CLASSES.categories()) == CLASSES


def test_files_of_earlier_versions_know_no_ids_of_the_dataset(tmp_path):
    text = CLASSES.to_json().replace(', "category_ids": [70, 4]', "")
    (tmp_path / FILE).write_text(text)
    classes = load_classes(tmp_path / FILE)
    assert classes == Classes(CLASSES.names, CLASSES.colors, CLASSES.thing_ids)
    assert [category["id"] for category in classes.categories()] == [0, 1]


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_a_run_goes_on_with_its_own_classes_only(tmp_path, other, message):
    record_classes(CLASSES, tmp_path)
    record_classes(Classes(CLASSES.names, ((9, 9, 9), (8, 8, 8)), (1,)), tmp_path)  # new colors
    with pytest.raises(ValueError, match=f"other classes than this run was started.*{message}"):
        record_classes(other, tmp_path)
    assert load_classes(tmp_path / FILE) == CLASSES


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_weights_are_measured_on_their_own_classes_only(tmp_path, other, message):
    require_classes(other, str(tmp_path / "model.pth"))  # nothing is known
    record_classes(CLASSES, tmp_path)
    for weights in (tmp_path, tmp_path / "model_final.pth"):
        require_classes(CLASSES, str(weights))
        with pytest.raises(ValueError, match=f"than the model of weights=.*{message}"):
            require_classes(other, str(weights))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / f".unfinished.{os.getpid()}.{FILE}").mkdir()
    with pytest.raises(OSError, match=r"classes\.json"):
        record_classes(CLASSES, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"names": ["a"], "colors": [[0, 0]], "thing_ids": []}'),
        '{"names": ["a"], "colors": [[0, 0, 256]], "thing_ids": []}',
        '{"names": [1], "colors": [[0, 0, 0]], "thing_ids": []}',
        '{"names": ["a"], "colors": [[0, 0, 0]], "thing_ids": [1]}',
        '{"names": ["a"], "colors": [[0, 0, 0]], "thing_ids": ["0"]}',
        '{"names": ["a"], "colors": [], "thing_ids": []}',
        '{"names": ["a"], "colors": [[0, 0, 0]], "thing_ids": [], "category_ids": [1, 2]}',
        '{"names": ["a"], "colors": [[0, 0, 0]], "thing_ids": [], "category_ids": null}',
        '{"names": null, "colors": [], "thing_ids": []}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=r"classes\.json does not describe classes"):
        load_classes(tmp_path / FILE)


@pytest.mark.parametrize(("ignored", "fits"), [(0, False), (18, False), (19, True), (256, False)])
def test_an_ignored_label_that_is_a_class_is_refused(ignored, fits):
    if fits:
        require_no_class(ignored, 19)
    else:
        with pytest.raises(DatasetError, match=f"dataset.ignore_label={ignored} must be .*19..255"):
            require_no_class(ignored, 19)
