"""Catalog entries equal Detectron2's own, and what is missing on disk is named."""

import json
import os
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets import registry
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic, cityscapes_semantic
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from tests.datasets.tiny_datasets import write_cityscapes, write_coco


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    root = tmp_path_factory.mktemp("complete")
    write_cityscapes(root, train=3, val=2)
    write_coco(root, train=4, val=2)
    return root


@pytest.fixture
def cityscapes(complete, tmp_path):
    shutil.copytree(complete / "cityscapes", tmp_path / "data" / "cityscapes")
    return tmp_path / "data"


@pytest.fixture
def coco(complete, tmp_path):
    shutil.copytree(complete / "coco", tmp_path / "data" / "coco")
    return tmp_path / "data"


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
        if name.startswith("coco"):  # ours know the sizes that the JSON lists, before reading
            assert all({r.pop("height"), r.pop("width")} == {60, 80} for r in records)
        assert records == theirs
        for key, value in MetadataCatalog.get(name).as_dict().items():
            if key in ("gt_dir", "image_dir"):
                value = value.rstrip("/")
            assert metadata[key] == value, (name, key)


def test_a_folder_with_a_dot_in_its_path_works(complete, tmp_path):
    root = tmp_path / ".cache" / "v1.0"
    shutil.copytree(complete / "cityscapes", root / "cityscapes")
    name = cityscapes_panoptic(root=str(root), split="val")
    assert all(os.path.isfile(r["sem_seg_file_name"]) for r in DatasetCatalog.get(name))
    relative = os.path.relpath(root)
    assert relative.startswith("..")
    name = cityscapes_panoptic(root=relative, split="val")
    assert all(os.path.isfile(r["sem_seg_file_name"]) for r in DatasetCatalog.get(name))


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


def test_annotations_are_read_once_for_check_and_loader(complete, coco, monkeypatch):
    from panoptic_dl.datasets import coco as module

    calls = []
    load = module.load_coco_panoptic_json
    monkeypatch.setattr(module, "load_coco_panoptic_json", lambda *a: calls.append(a) or load(*a))
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


def test_an_unknown_split_is_refused():
    for register in (cityscapes_panoptic, cityscapes_semantic, coco_panoptic, coco_semantic):
        with pytest.raises(ValueError, match=r"no split 'test'.*train.*val"):
            register(root="datasets", split="test")


PREPARE = "run `python scripts/prepare_cityscapes.py {root}`"
LABELS, IMAGES = r"download gtFine_trainvaltest.zip", r"download leftImg8bit_trainvaltest.zip"
CITYSCAPES_LACKS = [  # what is removed, what the error must name, the remedy
    ("leftImg8bit", "folder missing: {}/val", IMAGES),
    ("leftImg8bit/val/bonn/bonn_000001_000019_leftImg8bit.png", "file missing: {}", IMAGES),
    ("gtFine/val", "folder missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_labelIds.png", "file missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_instanceIds.png", "file missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_polygons.json", "file missing: {}", LABELS),
    ("gtFine/val/bonn/bonn_000001_000019_gtFine_labelTrainIds.png", "file missing: {}", PREPARE),
    ("gtFine/cityscapes_panoptic_val", "folder missing: {}", PREPARE),
    ("gtFine/cityscapes_panoptic_val.json", "file missing: {}", PREPARE),
    (
        "gtFine/cityscapes_panoptic_val/bonn_000001_000019_gtFine_panoptic.png",
        "file missing: {}",
        PREPARE,
    ),
]


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(("lacking", "problem", "remedy"), CITYSCAPES_LACKS)
def test_what_cityscapes_lacks_is_named(cityscapes, lacking, problem, remedy):
    path = cityscapes / "cityscapes" / lacking
    remove(path)
    with pytest.raises(DatasetError) as caught:
        cityscapes_panoptic(root=str(cityscapes), split="val")
    message = str(caught.value)
    assert problem.format(path) in message
    assert remedy.format(root=cityscapes) in message
    assert f"looked in: {cityscapes}/cityscapes\n" in message
    assert f"dataset.root={str(cityscapes)!r}" in message
    assert "DETECTRON2_DATASETS" in message


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
    remove(path)
    with pytest.raises(DatasetError) as caught:
        register(root=str(coco), split="val")
    message = str(caught.value)
    assert f"missing: {path}" in message
    assert f"`python scripts/prepare_coco.py {coco}`" in message
    assert f"looked in: {coco}/coco\n" in message


def test_an_error_leaves_the_catalogs_alone_and_a_repair_is_seen(cityscapes, tmp_path):
    name = cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_")
    file = next((cityscapes / "cityscapes/gtFine/val/bonn").glob("*labelTrainIds.png"))
    file.rename(tmp_path / "aside.png")
    with pytest.raises(DatasetError, match="labelTrainIds"):
        cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_")
    assert name in DatasetCatalog
    (tmp_path / "aside.png").rename(file)
    assert cityscapes_panoptic(root=str(cityscapes), split="val", prefix="mended_") == name


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["annotations"].pop(), "lists 1 images.*has 2.*bonn_000001_000019"),
        (lambda c: c["categories"].pop(), "other categories than Cityscapes.*--use-train-id"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=77),
            "segment 7 of .*aachen.*category_id 77",
        ),
    ],
)
def test_a_panoptic_json_of_other_data_is_refused(cityscapes, change, problem):
    file = cityscapes / "cityscapes" / "gtFine" / "cityscapes_panoptic_val.json"
    edit(file, change)
    with pytest.raises(DatasetError, match=problem) as caught:
        cityscapes_panoptic(root=str(cityscapes), split="val")
    assert "delete" in str(caught.value)


def test_an_unknown_category_of_coco_is_refused(coco):
    file = coco / "coco" / "annotations" / "panoptic_val2017.json"
    edit(file, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=777))
    with pytest.raises(DatasetError, match=r"777 in .*panoptic_val2017\.json"):
        coco_panoptic(root=str(coco), split="val")


def test_torn_json_files_are_named(coco, cityscapes):
    for register, file in (
        (coco_panoptic, coco / "coco/annotations/panoptic_val2017.json"),
        (cityscapes_panoptic, cityscapes / "cityscapes/gtFine/cityscapes_panoptic_val.json"),
    ):
        file.write_bytes(file.read_bytes()[:200])
        with pytest.raises(DatasetError, match=f"not a readable JSON file: {file}"):
            register(root=str(file.parents[2]), split="val")


def test_a_stray_file_among_the_images_is_named(cityscapes):
    stray = cityscapes / "cityscapes" / "leftImg8bit" / "val" / "bonn" / ".DS_Store"
    stray.touch()
    with pytest.raises(DatasetError, match=f"not an image of Cityscapes: {stray}"):
        cityscapes_semantic(root=str(cityscapes), split="val")


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


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Registrations of one test are not taken for those of another."""
    monkeypatch.setattr(registry, "_registered", {})
