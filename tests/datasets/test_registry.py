"""Catalog entries equal Detectron2's own, are replaced when files change, and name torn files."""

import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic


def test_records_and_metadata_equal_those_of_detectron2(complete, monkeypatch):
    assert "." not in str(complete)  # else Detectron2 cuts the paths of labels at the dot
    ours = {}
    for split in ("train", "val"):
        for register in (cityscapes_panoptic, cityscapes_semantic, coco_panoptic):
            name = register(root=str(complete), split=split)
            ours[name] = DatasetCatalog.get(name), MetadataCatalog.get(name).as_dict()
    for catalog in (DatasetCatalog, MetadataCatalog):
        monkeypatch.setattr(catalog, "data", {})
    for register_all in (
        builtin.register_all_coco,
        builtin.register_all_cityscapes,
        builtin.register_all_cityscapes_panoptic,
    ):
        register_all(str(complete))
    for name, (records, metadata) in ours.items():
        theirs = DatasetCatalog.get(name)
        if "sem_seg" in name:  # in the order of the file system
            theirs.sort(key=lambda record: record["file_name"])
            for record in theirs:  # read from the polygons, which ours does without
                del record["height"], record["width"]
        if name.startswith("coco"):  # ours know the sizes that the JSON lists, before reading
            assert all({r.pop("height"), r.pop("width")} == {60, 80} for r in records)
        assert records == theirs
        for key, value in MetadataCatalog.get(name).as_dict().items():
            if key in ("gt_dir", "image_dir"):
                value = value.rstrip("/")
            assert metadata[key] == value, (name, key)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("dataset", ["cityscapes", "coco"])
def test_numbers_of_the_config_are_those_of_the_catalog(complete, dataset, task):
    for divisor, ignored in ((1000, 255), (10_000, 200)):
        numbers = [f"dataset.label_divisor={divisor}", f"dataset.ignore_label={ignored}"]
        config = compose([f"dataset={dataset}", f"dataset.root={complete}", *numbers])
        metadata = MetadataCatalog.get(build(config.dataset.test[task]))
        assert (metadata.label_divisor, metadata.ignore_label) == (divisor, ignored)


def test_another_root_replaces_the_entry(complete, cityscapes):
    first = cityscapes_panoptic(root=str(complete), split="val")
    assert MetadataCatalog.get(first).gt_dir.startswith(str(complete))
    second = cityscapes_panoptic(root=str(cityscapes), split="val")
    assert first == second == "cityscapes_fine_panoptic_val"
    assert MetadataCatalog.get(second).gt_dir.startswith(str(cityscapes))
    assert DatasetCatalog.get(second)[0]["file_name"].startswith(str(cityscapes))


def test_a_prefix_makes_another_entry(complete, coco):
    assert coco_panoptic(root=str(complete), split="val") == "coco_2017_val_panoptic"
    assert coco_panoptic(root=str(coco), split="val", prefix="toy_") == "toy_coco_2017_val_panoptic"
    assert MetadataCatalog.get("coco_2017_val_panoptic").image_root.startswith(str(complete))


def test_an_unknown_split_is_refused():
    for register in (cityscapes_panoptic, cityscapes_semantic):
        with pytest.raises(ValueError, match=r"no split 'tset': choose from train, val, test"):
            register(root="datasets", split="tset")
    for register in (coco_panoptic, coco_semantic):
        with pytest.raises(DatasetError, match=r"tset2017.*(?s:.*)another dataset.test_split: val"):
            register(root="datasets", split="tset")


def test_an_error_leaves_the_catalogs_alone_and_a_repair_is_seen(cityscapes, tmp_path):
    name = cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_")
    file = next((cityscapes / "cityscapes/gtFine/val/bonn").glob("*labelTrainIds.png"))
    file.rename(tmp_path / "aside.png")
    with pytest.raises(DatasetError, match="labelTrainIds"):
        cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_")
    assert name in DatasetCatalog
    (tmp_path / "aside.png").rename(file)
    assert cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_") == name


def test_torn_json_files_are_named(coco, cityscapes):
    for register, file in (
        (coco_panoptic, coco / "coco/annotations/panoptic_val2017.json"),
        (cityscapes_panoptic, cityscapes / "cityscapes/gtFine/cityscapes_panoptic_val.json"),
    ):
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(DatasetError, match=f"not a readable JSON file: {file}"):
            register(root=str(file.parents[2]), split="val")


def test_large_folders_are_checked_without_a_stat_for_each_file(tmp_path, monkeypatch):
    from panoptic_dl.datasets.registry import list_files

    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(2000):
        (folder / f"{index:012d}.png").touch()
    calls = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.append(a) or stat(*a, **k))
    assert len(list_files(folder, ".png")) == 2000
    assert len(calls) < 10
