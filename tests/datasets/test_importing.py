"""Exports of annotation tools become panoptic labels, held against pycocotools' and plain masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from panopticapi.utils import rgb2id
from PIL import Image

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
