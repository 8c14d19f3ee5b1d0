"""The classes of a dataset agree with Detectron2's metadata and with what the configs say."""

import pytest
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from panoptic_dl.config import build, compose
from panoptic_dl.core.classes import Classes


@pytest.mark.parametrize("dataset", ["cityscapes", "coco", "toy_cityscapes", "toy_coco"])
def test_names_colours_and_things_are_those_of_the_config(dataset):
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
    with pytest.raises(ValueError, match="2 names of classes, but 1 colours"):
        Classes(("a", "b"), ((0, 0, 0),), ())
    with pytest.raises(ValueError, match=r"thing 1 is none of the classes 0\.\.0"):
        Classes(("a",), ((0, 0, 0),), (1,))
