"""COCO is prepared from its archives; what is missing is named."""

import json
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from panoptic_dl.core.archives import read_file
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.cityscapes import CityscapesSplit, cityscapes_panoptic
from panoptic_dl.datasets.coco import coco_panoptic
from scripts import prepare_coco as coco
from scripts.prepare_cityscapes import prepare_cityscapes
from scripts.prepare_coco import check_coco, prepare_coco
from tests.datasets.tiny_datasets import edit_json, write_cityscapes, write_coco
from tests.scripts.packed import files_below, quiet, zip_cityscapes, zip_coco


@pytest.fixture
def packed(tmp_path):
    """The archives in a folder of their own, and what they must become."""
    source, target = write_coco(tmp_path / "source", train=3, val=2), tmp_path / "target"
    target.mkdir()
    zip_coco(source, target)
    return source, target


def place(target: Path, where: str) -> Path:
    """Move the archives; return the folder that the command is given."""
    if where == "beside":
        return target
    base = target / "coco"
    base.mkdir()
    for file in target.glob("*.zip"):
        file.rename(base / file.name)
    return base if where == "the folder itself" else target


@pytest.mark.parametrize("where", ["beside", "inside", "the folder itself"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_archives_become_the_dataset(packed, where, num_workers):
    source, target = packed
    prepare_coco(place(target, where), num_workers=num_workers, say=quiet)
    made = files_below(target / "coco")
    assert {k: v for k, v in made.items() if not k.endswith(".zip")} == files_below(source / "coco")
    name = coco_panoptic(root=str(target), split="val", prefix=f"packed_{where}_{num_workers}_")
    assert len(DatasetCatalog.get(name)) == 2


def test_archives_of_cityscapes_become_the_dataset(tmp_path):
    source, target = write_cityscapes(tmp_path / "source", train=3, val=2), tmp_path / "target"
    target.mkdir()
    zip_cityscapes(source, target)
    prepare_cityscapes(target, say=quiet)
    assert files_below(target / "cityscapes") == files_below(source / "cityscapes")


def test_the_script_prepares_checks_and_goes_on_without_archives(packed, run_script):
    _, target = packed
    code, _, err = run_script("prepare_coco.py", target, "--check")
    assert code == 1
    assert err.startswith(f"error: COCO 2017: folder missing: {target}/coco/panoptic_train2017\n")
    assert "panoptic_annotations_trainval2017.zip     860,725,834 bytes (861 MB)" in err
    assert not (target / "coco").exists()
    code, out, err = run_script("prepare_coco.py", target, "--workers", "2")
    assert code == 0, err
    assert "val: 2 of the official 5000 images: good for trials" in out
    assert f"ready: dataset=coco dataset.root={target}" in out
    for file in target.rglob("*.zip"):  # as the script said they can be
        file.unlink()
    for more in ((), ("--check",)):
        code, again, _ = run_script("prepare_coco.py", target, *more)
        assert code == 0
        assert again.splitlines() == out.splitlines()[-3:]
    code, _, err = run_script("prepare_coco.py", target, "--workers", "0")
    assert code == 2
    assert "must be at least 1" in err


def test_inner_archives_are_not_needed_again_once_their_images_are_all_there(packed, monkeypatch):
    _, target = packed
    prepare_coco(target, say=quiet)
    inner = target / "coco/annotations/panoptic_val2017.zip"
    inner.unlink()
    monkeypatch.setitem(coco.OFFICIAL_COUNTS, "val", 2)
    lines = []
    prepare_coco(target, say=lines.append)
    assert not inner.exists()
    assert lines[-2] == "val: complete, 2 images"
    next((target / "coco/panoptic_val2017").iterdir()).unlink()
    prepare_coco(target, say=quiet)
    assert len(list((target / "coco/panoptic_val2017").iterdir())) == 2


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("train2017", "folder missing: .*train2017\n(?s:.*) train2017.zip +19,336,861,798 bytes"),
        ("panoptic_val2017", "folder missing: (?s:.*)panoptic_annotations_trainval2017.zip"),
        (
            "val2017/000000000101.jpg",
            r"file missing: .*000101\.jpg \(1 of 2 such files(?s:.*)put val2017.zip into",
        ),
        ("panoptic_train2017/000000000102.png", r"000102\.png \(1 of 3 (?s:.*)put panoptic_anno"),
        (
            "annotations/panoptic_train2017.json",
            "file missing: (?s:.*)put panoptic_anno",
        ),
        (
            "annotations/instances_val2017.json",
            "file missing: (?s:.*)put annotations_trainval",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_archive(tmp_path, lacks, says):
    base = write_coco(tmp_path, train=3, val=2) / "coco"
    check_coco(tmp_path, say=quiet)
    gone = base / lacks
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    for attempt in (prepare_coco, check_coco):
        with pytest.raises(DatasetError, match=says):
            attempt(tmp_path, say=quiet)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{}], "annotations": [{}]}', "{}"])
@pytest.mark.parametrize("kind", ["panoptic", "instances"])
def test_annotations_that_are_none_are_named(tmp_path, text, kind):
    file = write_coco(tmp_path, train=3, val=2) / f"coco/annotations/{kind}_val2017.json"
    file.write_text(text)
    with pytest.raises(DatasetError, match=f"{kind}_val2017.json(?s:.*): +put .*annotations_tr"):
        check_coco(tmp_path, say=quiet)


@pytest.mark.parametrize("more", [True, False])
def test_annotations_of_other_images_are_named(tmp_path, more):
    base = write_coco(tmp_path, train=3, val=2) / "coco"
    file = base / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    if more:  # the official file beside a part of the images
        content["images"].append(content["images"][0] | {"id": 999})
    else:
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 100]
        content["images"].pop()
    file.write_text(json.dumps(content))
    said = r"image (999|101) is in .* both must hold the same images \(2 and [13]\); .*subset_coco"
    with pytest.raises(DatasetError, match=said):
        check_coco(tmp_path, say=quiet)


def test_labels_of_another_size_than_their_image_are_never_ready(tmp_path):
    file = write_coco(tmp_path, train=3, val=2) / "coco/panoptic_val2017/000000000101.png"
    Image.open(file).resize((40, 30), 0).save(file)
    with pytest.raises(DatasetError, match=f"sizes differ: {file} is 40 x 30, .*101.jpg is 80 x"):
        check_coco(tmp_path, say=quiet)


def segments_of(content):
    return content["annotations"][0]["segments_info"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_the_reader_of_training_refuses_is_never_ready(tmp_path, split):
    base = write_coco(tmp_path, train=3, val=2) / "coco"
    check_coco(tmp_path, say=quiet)
    file = base / f"annotations/panoptic_{split}2017.json"
    text = file.read_text()
    file.write_text(text.replace('"width": 80', '"width": 81'))
    with pytest.raises(DatasetError, match=r"sizes differ: its entry in the JSON file is 81 x"):
        check_coco(tmp_path, say=quiet)
    file.write_text(text)
    for change, said in (
        (lambda c: c["annotations"].append(c["annotations"][0]), "has image 100 2 times"),
        (lambda c: segments_of(c).append(segments_of(c)[0]), r"segment \d+ is listed twice"),
        (lambda c: segments_of(c)[0].pop("id"), "segment None: ids are whole numbers"),
        (lambda c: segments_of(c)[0].update(iscrowd="0"), "\"iscrowd\" is '0'; write 0 or 1"),
    ):
        edit_json(file, change)
        with pytest.raises(DatasetError, match=said):
            check_coco(tmp_path, say=quiet)
        file.write_text(text)
    label = base / f"panoptic_{split}2017/000000000101.png"
    Image.open(label).convert("CMYK").save(label, format="TIFF")
    with pytest.raises(DatasetError, match=r"101.png is no panoptic label: its mode is CMYK"):
        check_coco(tmp_path, say=quiet)


def test_images_without_labels_are_counted_and_unfinished_ones_are_not(tmp_path):
    base = write_coco(tmp_path, train=3, val=2) / "coco"
    shutil.copy(base / "val2017/000000000101.jpg", base / "val2017/000000000999.jpg")
    (base / "val2017/.unfinished.7.000000000998.jpg").touch()
    lines = []
    check_coco(tmp_path, say=lines.append)
    assert lines[1].endswith("(1 more images are without labels, and unused)")


def test_an_unfinished_download_is_mentioned(tmp_path):
    (tmp_path / "train2017.zip.crdownload").touch()
    with pytest.raises(DatasetError, match=r"not finished: .*train2017\.zip\.crdownload"):
        prepare_coco(tmp_path, say=quiet)


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_images_and_labels_are_left_in_their_archives(packed, where, run_script):
    source, target = packed
    place(target, where)
    code, out, err = run_script("prepare_coco.py", target, "--packed")
    assert code == 0, err
    assert "ready: dataset=coco" in out
    assert "val: 2 of the official" in out
    folders = {path.parent.name for path in (target / "coco").rglob("*") if path.is_file()}
    assert folders <= {"annotations", "coco"}
    for split, count in (("train", 3), ("val", 2)):
        name = coco_panoptic(root=str(target), split=split, prefix=f"left_{where}_")
        records, whole = DatasetCatalog.get(name), coco_panoptic(root=str(source), split=split)
        assert len(records) == count
        for record, unpacked in zip(records, DatasetCatalog.get(whole), strict=True):
            for key in ("file_name", "pan_seg_file_name"):
                assert ".zip/" in record[key]
                assert ".zip/" not in unpacked[key]
                assert read_file(record.pop(key)) == Path(unpacked.pop(key)).read_bytes()
            assert record == unpacked


def test_images_of_cityscapes_are_left_in_their_archive(tmp_path):
    source, target = write_cityscapes(tmp_path / "source", train=3, val=2), tmp_path / "target"
    target.mkdir()
    zip_cityscapes(source, target)
    said: list[str] = []
    prepare_cityscapes(target, packed=True, say=said.append)
    assert "train: 3 of the official 2975" in " ".join(said)
    assert "ready" in said[-1]
    whole = files_below(source / "cityscapes")
    assert files_below(target / "cityscapes") == {
        name: data for name, data in whole.items() if not name.startswith("leftImg8bit")
    }
    name = cityscapes_panoptic(root=str(target), split="val", prefix="left_")
    for record in DatasetCatalog.get(name):
        inside = record["file_name"].partition(".zip/")[2]
        assert read_file(record["file_name"]) == whole[inside]
    assert len(CityscapesSplit(str(target), "val").sources()) > 4
