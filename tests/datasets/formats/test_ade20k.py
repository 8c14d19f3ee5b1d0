"""ADE20K: the classes are official, panoptic labels are those of the published preparation."""

import pickle

import numpy as np
import pytest
from panopticapi.utils import IdGenerator, rgb2id
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.ade20k import read
from tests.datasets.official_folders import save, segments_of, write_ade20k


@pytest.fixture
def root(tmp_path):
    return write_ade20k(tmp_path, training=2, validation=1)


def published(classes, objects, categories):
    """The join of Mask2Former's prepare_ade20k_pan_seg.py, step by step, with panopticapi."""
    generator = IdGenerator({category["id"]: category for category in categories})
    things = [category["id"] for category in categories if category["isthing"]]
    canvas = np.zeros((*classes.shape, 3), np.uint8)
    segments = {}
    for number in np.unique(classes):
        if number and number - 1 not in things:
            segment, color = generator.get_id_and_color(int(number) - 1)
            canvas[classes == number], segments[segment] = color, (int(number) - 1, 0)
    for number in np.unique(objects[..., 1]):
        if number:
            where = objects[..., 1] == number
            (kind,) = np.unique(objects[..., 0][where])
            segment, color = generator.get_id_and_color(things[kind - 1])
            canvas[where], segments[segment] = color, (things[kind - 1], 0)
    ids = rgb2id(canvas)
    return ids, {i: segments[i] for i in np.unique(ids).tolist() if i}


def test_labels_are_those_of_the_published_preparation(root):
    export = read(root)
    assert {split: len(samples) for split, samples in export.splits.items()} == {
        "train": 2,
        "val": 1,
    }
    for split, folder in (("train", "training"), ("val", "validation")):
        for sample in pickle.loads(pickle.dumps(export.splits[split])):  # to a worker process
            base, name = root / "ADEChallengeData2016", f"{sample.image.stem}.png"
            classes = np.asarray(Image.open(base / "annotations" / folder / name))
            objects = np.asarray(Image.open(base / "annotations_instance" / folder / name))
            wanted = published(classes, objects, export.categories)
            assert segments_of(*sample.label()) == segments_of(*wanted)
            # Two chairs of different classes, a flag over the wall, wall and floor.
            assert sorted(kind for kind, _ in wanted[1].values()) == [0, 3, 19, 32, 149]


def test_semantic_labels_are_the_official_classes(root):
    for sample in read(root / "ADEChallengeData2016", task="semantic").splits["val"]:
        ids, segments = sample.label()
        name = f"{sample.image.stem}.png"
        file = root / "ADEChallengeData2016" / "annotations" / "validation" / name
        np.testing.assert_array_equal(ids, np.asarray(Image.open(file)))
        assert segments == {i: (i - 1, 0) for i in (1, 4, 14, 16, 20)}


def test_the_table_is_the_official_one(root):
    table = read(root).categories
    assert [category["id"] for category in table] == list(range(150))
    assert sum(category["isthing"] for category in table) == 100
    assert {0: "wall", 12: "person", 149: "flag"}.items() <= dict(
        enumerate(category["name"] for category in table)
    ).items()
    assert table[12] == {"id": 12, "name": "person", "isthing": 1, "color": [150, 5, 61]}


def test_what_is_missing_or_wrong_is_named(root, tmp_path):
    base = root / "ADEChallengeData2016"
    label = base / "annotations_instance" / "validation" / "ADE_valid_00000001.png"
    save(label, np.full((24, 32, 3), (101, 1, 0)))
    with pytest.raises(
        DatasetError, match=r"_00000001\.png has an instance of class 101: 1\.\.100"
    ):
        read(root).splits["val"][0].label()
    save(label, np.zeros((24, 31, 3)))
    with pytest.raises(DatasetError, match="different sizes"):
        read(root).splits["val"][0].label()
    label.unlink()
    with pytest.raises(
        DatasetError, match=r"file missing: .*ADE_valid_00000001\.png(?s:.)*python scri"
    ):
        read(root)
    assert len(read(root, task="semantic").splits["val"]) == 1
    save(base / "annotations" / "validation" / "ADE_valid_00000001.png", np.full((24, 32), 151))
    with pytest.raises(DatasetError, match="has class 151: those of ADE20K are"):
        read(root, task="semantic").splits["val"][0].label()
    with pytest.raises(
        DatasetError, match=r"folder missing: .*images(?s:.)*prepare_dataset\.py ade20k"
    ):
        read(tmp_path / "elsewhere")
