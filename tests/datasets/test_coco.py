"""Splits of COCO; what is missing or does not fit is named."""

import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from tests.datasets.tiny_datasets import edit_json


def test_annotations_are_read_once_for_check_and_loader(complete, coco, monkeypatch):
    from panoptic_dl.datasets import coco as module

    calls = []
    read = module.Layout.read_json
    monkeypatch.setattr(module.Layout, "read_json", lambda *a: calls.append(a) or read(*a))
    for _ in range(3):  # loader and evaluators each ask for the name
        name = coco_panoptic(root=str(coco), split="val", prefix="once_")
    records = DatasetCatalog.get(name)
    assert len(records) == 2
    assert len(calls) == 1
    assert DatasetCatalog.get(name) == records  # read again: nobody held them
    assert len(calls) == 2


def test_semantic_records_of_coco_name_their_panoptic_label(complete):
    name = coco_semantic(root=str(complete), split="val")
    record = DatasetCatalog.get(name)[0]
    assert "sem_seg_file_name" not in record  # Detectron2 would read classes from it
    assert record["pan_seg_file_name"].endswith(".png")
    metadata = MetadataCatalog.get(name)
    assert len(metadata.stuff_classes) == 133
    assert sorted(metadata.stuff_dataset_id_to_contiguous_id.values()) == list(range(133))


def test_part_of_the_images_is_a_dataset(coco):
    file = coco / "coco" / "annotations" / "panoptic_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][:2]
    file.write_text(json.dumps(content))
    assert len(DatasetCatalog.get(coco_panoptic(root=str(coco), split="train"))) == 2


@pytest.mark.parametrize(
    "lacking",
    [
        "val2017",
        "val2017/000000000101.jpg",
        "val2017/000000000100.jpg",  # the first one, which Detectron2 asserts
        "panoptic_val2017",
        "panoptic_val2017/000000000101.png",
        "annotations/panoptic_val2017.json",
        "annotations/instances_val2017.json",
    ],
)
@pytest.mark.parametrize("register", [coco_panoptic, coco_semantic])
def test_what_coco_lacks_is_named(coco, lacking, register):
    path = coco / "coco" / lacking
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError) as caught:
        register(root=str(coco), split="val")
    message = str(caught.value)
    assert f"missing: {path}" in message
    assert f"`python scripts/prepare_coco.py {coco}`" in message
    assert f"looked in: {coco}/coco\n" in message


def test_an_unknown_category_of_coco_is_refused(coco):
    file = coco / "coco" / "annotations" / "panoptic_val2017.json"
    edit_json(file, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=777))
    with pytest.raises(DatasetError, match=r"777 in .*panoptic_val2017\.json"):
        coco_panoptic(root=str(coco), split="val")
