"""Splits of Cityscapes; what is missing or does not fit is named."""

import os
import shutil

import pytest
from detectron2.data import DatasetCatalog

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from tests.datasets.tiny_datasets import edit_json

LABELS, IMAGES = r"download gtFine_trainvaltest.zip", r"download leftImg8bit_trainvaltest.zip"


def test_a_folder_with_a_dot_in_its_path_works(complete, tmp_path):
    root = tmp_path / ".cache" / "v1.0"
    shutil.copytree(complete / "cityscapes", root / "cityscapes")
    name = cityscapes_panoptic(root=str(root), split="val")
    assert all(os.path.isfile(r["sem_seg_file_name"]) for r in DatasetCatalog.get(name))
    relative = os.path.relpath(root)
    assert relative.startswith("..")
    name = cityscapes_panoptic(root=relative, split="val")
    assert all(os.path.isfile(r["sem_seg_file_name"]) for r in DatasetCatalog.get(name))


PREPARE = "run `python scripts/prepare_cityscapes.py {root}`"


CITYSCAPES_LACKS = [  # what is removed, what the error must name, the remedy
    ("leftImg8bit", "folder missing: {}/val", IMAGES),
    ("leftImg8bit/val/bonn/bonn_000001_000019_leftImg8bit.png", "file missing: {}", IMAGES),
    ("gtFine/val", "folder missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_labelIds.png", "file missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_instanceIds.png", "file missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_labelTrainIds.png", "file missing: {}", PREPARE),
    ("gtFine/cityscapes_panoptic_val", "folder missing: {}", PREPARE),
    ("gtFine/cityscapes_panoptic_val.json", "file missing: {}", PREPARE),
    (
        "gtFine/cityscapes_panoptic_val/bonn_000001_000019_gtFine_panoptic.png",
        "file missing: {}",
        PREPARE,
    ),
]


@pytest.mark.parametrize(("lacking", "problem", "remedy"), CITYSCAPES_LACKS)
def test_what_cityscapes_lacks_is_named(cityscapes, lacking, problem, remedy):
    path = cityscapes / "cityscapes" / lacking
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DatasetError) as caught:
        cityscapes_panoptic(root=str(cityscapes), split="val")
    message = str(caught.value)
    assert problem.format(path) in message
    assert remedy.format(root=cityscapes) in message
    assert f"looked in: {cityscapes}/cityscapes\n" in message
    assert f"dataset.root={str(cityscapes)!r}" in message
    assert "DETECTRON2_DATASETS" in message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["annotations"].pop(), "lists 1 images.*has 2.*bonn_000001_000019"),
        (lambda c: c["categories"].pop(), "other categories than Cityscapes.*--use-train-id"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77),
            "unknown or missing key 77 in .*json",
        ),
        (lambda c: c.pop("categories"), "unknown or missing key 'categories' in .*json"),
        (lambda c: c["annotations"][0].pop("file_name"), "missing key 'file_name' in .*json"),
    ],
)
def test_a_panoptic_json_of_other_data_is_refused(cityscapes, change, problem):
    file = cityscapes / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json"
    edit_json(file, change)
    with pytest.raises(DatasetError, match=problem) as caught:
        cityscapes_panoptic(root=str(cityscapes), split="val")
    assert "delete" in str(caught.value)


@pytest.mark.parametrize("register", [cityscapes_panoptic, cityscapes_semantic])
def test_polygons_and_hidden_files_play_no_part(cityscapes, register):
    name = register(root=str(cityscapes), split="val")
    expected = DatasetCatalog.get(name)
    base = cityscapes / "cityscapes"
    for file in base.glob("gtFine/*/*/*_polygons.json"):
        file.unlink()
    for folder in ("leftImg8bit/val", "leftImg8bit/val/bonn", "gtFine/val/bonn"):
        (base / folder / ".DS_Store").touch()
        for file in (base / folder).glob("*.png"):
            file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
    panoptic = base / "gtFine" / "cityscapes_panoptic_val"
    (panoptic / "._bonn_000001_000019_gtFine_panoptic.png").touch()
    assert DatasetCatalog.get(register(root=str(cityscapes), split="val")) == expected
