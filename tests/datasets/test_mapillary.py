"""Mapillary Vistas: both versions are read from their official folders."""

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import load_coco_panoptic_json

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from tests.datasets.official_folders import MAPILLARY, write_mapillary

SPLITS = {"train_split": "training", "test_split": "validation"}


def register(root, version, part="test", task="panoptic", **options):
    form = f"mapillary_{version}"
    classes = custom_classes(form=form, root=str(root), **SPLITS)
    split = SPLITS[f"{part}_split"]
    return custom_dataset(
        form=form, task=task, part=part, classes=classes, root=str(root), split=split, **options
    )


@pytest.mark.parametrize(
    ("version", "folder", "file", "plain"),
    [
        ("v1.2", "v1.2/panoptic", "panoptic_2018.json", False),
        ("v1.2", "panoptic", "panoptic_2018.json", True),
        ("v2.0", "v2.0/panoptic", "panoptic_2020.json", False),
    ],
)
@pytest.mark.parametrize("root_is", ["datasets", "mapillary_vistas"])
def test_records_are_those_of_detectron2(tmp_path, version, folder, file, plain, root_is):
    write_mapillary(tmp_path, version, plain=plain, training=2, validation=1)
    base = tmp_path / "mapillary_vistas"
    for part, split in (("train", "training"), ("test", "validation")):
        name = register(base if root_is != "datasets" else tmp_path, version, part)
        meta = MetadataCatalog.get(name)
        places = base / split / folder / file, base / split / "images", base / split / folder
        content = json.loads(places[0].read_text())
        for index, annotation in enumerate(content["annotations"]):
            annotation["image_id"] = index  # a number, for Detectron2
        (tmp_path / "numbers.json").write_text(json.dumps(content))
        images, labels = map(str, places[1:])
        theirs = load_coco_panoptic_json(
            str(tmp_path / "numbers.json"), images, labels, meta.as_dict()
        )
        sizes = {"height": 24, "width": 32}
        ours = DatasetCatalog.get(name)
        for index, record in enumerate(ours):
            assert record["image_id"] == Path(record["file_name"]).stem
            record["image_id"] = index
        assert len(ours) == {"train": 2, "test": 1}[part]
        assert ours == [record | sizes for record in theirs]
        assert meta.panoptic_json == str(places[0])
        assert meta.stuff_classes == ["Bird", "Car", "Curb", "Sky"]  # things first
        assert meta.stuff_colors[3] == MAPILLARY[2]["color"]


def test_versions_lie_side_by_side(tmp_path):
    for version in ("v1.2", "v2.0"):
        write_mapillary(tmp_path, version, training=1, validation=1)
    names = {version: register(tmp_path, version, task="semantic") for version in ("v1.2", "v2.0")}
    files = [MetadataCatalog.get(name).panoptic_json for name in names.values()]
    assert [file.rpartition("/")[2] for file in files] == [
        "panoptic_2018.json",
        "panoptic_2020.json",
    ]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        DatasetError, match=r"mapillary has no dataset\.version=v1\.1: write v1\.2 or v2"
    ):
        register(tmp_path, "v1.1")
    with pytest.raises(
        DatasetError, match=r"^dataset=mapillary: file missing: .*panoptic_2020\.json"
    ):
        register(tmp_path, "v2.0")
    write_mapillary(tmp_path, training=1, validation=1)
    next((tmp_path / "mapillary_vistas" / "validation" / "images").iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"prepare_dataset\.py mapillary ROOT` says what"):
        register(tmp_path, "v1.2")
