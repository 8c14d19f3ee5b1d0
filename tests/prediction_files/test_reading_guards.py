"""Readers: names by others, and files that cannot be right."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.folder import PredictionFolder
from panoptic_dl.prediction_files.search import KINDS
from tests.prediction_files.datasets import coco_scenes, save, streets, toy

STEM = "panoptic_small7_panoptic-dl_results"


@pytest.fixture
def coco(tmp_path):
    predicted = coco_scenes(tmp_path, range(1, 7))
    save(predicted, KINDS, tmp_path / "out")
    return predicted


@pytest.fixture
def cityscapes(tmp_path):
    predicted = streets(tmp_path, range(4))
    save(predicted, ["instances", "semantic"], tmp_path / "out")
    return predicted


def change(file: Path, edit) -> None:
    content = json.loads(file.read_text())
    edited = edit(content)
    file.write_text(json.dumps(edited if isinstance(edited, list) else content))


def read_all(predicted, folder) -> list[dict]:
    read = PredictionFolder(predicted.name, folder)
    return [read(item) for item in predicted.items]


def alike(before: list[dict], after: list[dict], kind: str) -> None:
    key = {"panoptic": "panoptic_seg", "instances": "instances", "semantic": "sem_seg"}[kind]
    for one, other in zip(before, after, strict=True):
        assert key in other
        assert str(one[key]) == str(other[key])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["in it", "in its folder", "the folder itself"])
def test_names_of_others_in_coco(coco, tmp_path, kind, place):
    before = read_all(coco, tmp_path / "out")
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    folder = tmp_path / "theirs"
    target = folder / kind if place != "in it" else folder
    target.mkdir(parents=True)
    name = file.name.replace("panoptic-dl", "maskformer") if place == "in it" else "whatever.json"
    shutil.copy(file, target / name)
    if kind == "panoptic":
        pictures = target / Path(name).stem if place == "in it" else target  # beside it, too
        shutil.copytree(file.with_suffix(""), pictures, dirs_exist_ok=True)
    given = target if place == "the folder itself" else folder
    assert PredictionFolder(coco.name, given).kinds == (kind,)
    alike(before, read_all(coco, given), kind)


@pytest.mark.parametrize("kind", ["instances", "semantic"])
@pytest.mark.parametrize("deep", [False, True])
def test_names_of_others_in_cityscapes(cityscapes, tmp_path, kind, deep):
    before = read_all(cityscapes, tmp_path / "out")
    folder = tmp_path / "theirs"
    for file in sorted((tmp_path / "out" / kind).rglob("*")):
        if file.is_dir():
            continue
        city = file.name.partition("_")[0] if deep else "."
        name = file.name
        if "masks" not in file.parts:
            name = name.replace("_pred_labelIds", "").replace("_pred", "_leftImg8bit_by_us")
        target = folder / city / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            target.write_text(file.read_text().replace("masks/", ""))
        else:
            shutil.copy(file, target)
    assert PredictionFolder(cityscapes.name, folder).kinds == (kind,)
    alike(before, read_all(cityscapes, folder), kind)


def test_cityscapes_panoptic_pictures_are_no_labels(tmp_path):
    """A panoptic result directly in a folder, with pictures in its own or beside it."""
    predicted = toy("toy_cityscapes")
    save(predicted, "panoptic", tmp_path / "out")
    assert PredictionFolder(predicted.name, tmp_path / "out").kinds == ("panoptic",)
    assert PredictionFolder(predicted.name, tmp_path / "out" / "panoptic").kinds == ("panoptic",)
    pictures = tmp_path / "out" / "panoptic" / "cityscapes_panoptic_val"
    for file in pictures.iterdir():
        file.rename(pictures.parent / file.name)
    pictures.rmdir()
    read = PredictionFolder(predicted.name, tmp_path / "out" / "panoptic")
    assert read.kinds == ("panoptic",)
    assert "panoptic_seg" in read(predicted.items[0])


def test_several_files_that_could_be_meant(coco, tmp_path):
    for kind in KINDS:
        (file,) = (tmp_path / "out" / kind).glob("*.json")
        shutil.copy(file, file.with_name("other.json"))
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*{file.name}.*keep one"):
            PredictionFolder(coco.name, tmp_path / "out")
        file.with_name("other.json").unlink()
        top = tmp_path / "out" / file.name
        shutil.copy(file, top)
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*keep one"):
            PredictionFolder(coco.name, tmp_path / "out")
        top.unlink()


def test_nothing_is_there(coco, tmp_path):
    with pytest.raises(EvaluationError, match="there is no folder"):
        PredictionFolder(coco.name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"looked there for .*instances/\*\.json"):
        PredictionFolder(coco.name, tmp_path / "empty")


def test_nothing_of_cityscapes_is_there(cityscapes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"semantic/<image id>\*\.png"):
        PredictionFolder(cityscapes.name, tmp_path / "empty")


@pytest.mark.parametrize("kind", KINDS)
def test_torn_json(coco, tmp_path, kind):
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    file.write_bytes(file.read_bytes()[:-200])
    message = f"{re.escape(str(file))} is no readable JSON file .*again"
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(coco.name, tmp_path / "out")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: [], "no panoptic result"),
        (lambda c: c.update(annotations=3), "holds no list"),
        (lambda c: c["annotations"].append(3), 'entry 6 has no valid "image_id"'),
        (lambda c: c["annotations"].append(dict(c["annotations"][0])), "lists image 5 twice"),
        (lambda c: c["annotations"][0].pop("file_name"), 'entry 0 has no valid "file_name"'),
    ],
)
def test_panoptic_files_that_are_none(coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(coco.name, tmp_path / "out")


def busy(content) -> dict:
    """The first image's entry, which has segments."""
    assert content["annotations"][0]["segments_info"]
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"].pop(0), "no prediction for image 5 in .*json.*whole split"),
        (lambda c: busy(c)["segments_info"].pop(), r"000005\.png holds segment .*not list"),
        (
            lambda c: busy(c)["segments_info"].append({"id": 9, "category_id": 1}),
            "lists segment 9 .*no pixel",
        ),
        (
            lambda c: busy(c)["segments_info"].append(busy(c)["segments_info"][0]),
            "listed twice",
        ),
        (lambda c: busy(c)["segments_info"].append({"id": 0, "category_id": 1}), "0 is void"),
        (
            lambda c: busy(c)["segments_info"][0].update(category_id=3),
            "unknown category 3: files hold the dataset's own ids",
        ),
        (lambda c: busy(c)["segments_info"][0].pop("category_id"), 'no valid "category_id"'),
        (lambda c: busy(c).update(file_name="../../secret.png"), "secret.png, which is not inside"),
        (lambda c: busy(c).update(file_name="/secret.png"), "secret.png, which is not inside"),
        (lambda c: busy(c).update(file_name="000000000099.png"), "cannot read .*000099.png"),
        (lambda c: busy(c).update(file_name="000000000008.png"), "holds segment|has no pixel"),
    ],
)
def test_panoptic_entries_that_cannot_be(coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    read = PredictionFolder(coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match=message):
        read(coco.items[0])
    if "000008" not in message:
        read(coco.items[1])  # others are fine


def test_pictures_that_cannot_be(coco, tmp_path):
    file = tmp_path / "out" / "panoptic" / STEM / "000000000005.png"
    read = PredictionFolder(coco.name, tmp_path / "out")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvaluationError, match=f"cannot read {re.escape(str(file))}"):
        read(coco.items[0])
    Image.new("RGB", (3, 4)).save(file)
    with pytest.raises(EvaluationError, match=rf"{re.escape(str(file))} is \(4, 3\), the image"):
        read(coco.items[0])
    Image.new("L", (3, 4)).save(file)
    with pytest.raises(EvaluationError, match="mode is L, not RGB"):
        read(coco.items[0])


def with_entry(content) -> dict:
    return next(e for e in content if e["image_id"] == 5 and sum(e["segmentation"]["size"]))


@pytest.mark.parametrize("kind", ["instances", "semantic"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.update(category_id=3), "image 5 has the unknown category 3: .*own ids"),
        (lambda e: e.update(category_id=[3]), 'no valid "category_id"'),
        (lambda e: e.update(segmentation=[[1, 2, 3]]), "no run-length code"),
        (lambda e: e.pop("segmentation"), "no run-length code"),
        (lambda e: e["segmentation"].update(size=[18, 14]), r"\(18, 14\), the image \(14, 18\)"),
        (lambda e: e["segmentation"].update(counts="1"), "damaged .*ends too early"),
        (lambda e: e["segmentation"].update(counts=""), "damaged .*ends too early"),
        (lambda e: e["segmentation"].update(counts="zzzz"), "damaged"),
        (lambda e: e["segmentation"].update(counts="é"), "damaged"),
        (lambda e: e["segmentation"].update(counts=3), "damaged .*no text"),
        (lambda e: e["segmentation"].update(counts=[3, 4]), "damaged .*add up"),
    ],
)
def test_masks_that_cannot_be(coco, tmp_path, kind, edit, message):
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    change(file, lambda content: edit(with_entry(content)))
    with pytest.raises(EvaluationError, match=f"{re.escape(str(file))}.*{message}"):
        PredictionFolder(coco.name, tmp_path / "out")(coco.items[0])


def test_masks_as_lists_of_counts(coco, tmp_path):
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def edit(content):
        with_entry(content)["segmentation"]["counts"] = [14, 14, 14 * 16]

    change(file, edit)
    masks = PredictionFolder(coco.name, tmp_path / "out")(coco.items[0])["instances"].pred_masks
    expected = np.zeros((14, 18), dtype=bool)
    expected[:, 1] = True  # counts run down the columns
    assert any((mask.numpy() == expected).all() for mask in masks)


def test_valid_codes_that_pycocotools_would_write_otherwise(coco, tmp_path):
    """Runs of no pixels are allowed: 14, 0, 0, 14 and the rest."""
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def edit(content):
        # 14, 0, 0, then 14 - 0 and 224 - 0 as differences to the last but one
        with_entry(content)["segmentation"]["counts"] = ">00>P7"

    change(file, edit)
    masks = PredictionFolder(coco.name, tmp_path / "out")(coco.items[0])["instances"].pred_masks
    expected = np.zeros((14, 18), dtype=bool)
    expected[:, 1] = True
    assert any((mask.numpy() == expected).all() for mask in masks)


def test_detections_for_another_split_are_no_empty_ones(coco, tmp_path, caplog):
    (file,) = (tmp_path / "out" / "instances").glob("*.json")

    def others(content):
        content[0]["image_id"] = 4711

    change(file, others)
    PredictionFolder(coco.name, tmp_path / "out")
    assert "1 images that are not in" in caplog.text
    change(file, lambda content: [entry | {"image_id": 4711} for entry in content])
    with pytest.raises(EvaluationError, match=r"other images than those of .*4711"):
        PredictionFolder(coco.name, tmp_path / "out")


def test_boxes_alone_have_no_masks(coco, tmp_path):
    folder = tmp_path / "out" / "instances"
    (masks,), (boxes,) = folder.glob("*.json"), folder.glob("boxes/*.json")
    shutil.copy(boxes, masks)
    with pytest.raises(EvaluationError, match="holds boxes and no masks"):
        PredictionFolder(coco.name, tmp_path / "out")


def test_classes_that_overlap(coco, tmp_path):
    (file,) = (tmp_path / "out" / "semantic").glob("*.json")
    whole = [0, 14 * 18]

    def edit(content):
        size = [14, 18]
        content += [
            {"image_id": 5, "category_id": c, "segmentation": {"size": size, "counts": whole}}
            for c in (1, 44)
        ]

    change(file, edit)
    with pytest.raises(EvaluationError, match="masks of image 5 overlap"):
        PredictionFolder(coco.name, tmp_path / "out")(coco.items[0])


def test_missing_images(coco, tmp_path):
    (file,) = (tmp_path / "out" / "semantic").glob("*.json")
    change(file, lambda content: [entry for entry in content if entry["image_id"] != 5])
    with pytest.raises(EvaluationError, match=r"no prediction for image 5 in .*whole split"):
        PredictionFolder(coco.name, tmp_path / "out")(coco.items[0])
    with pytest.raises(EvaluationError, match="image 99 is none of"):
        PredictionFolder(coco.name, tmp_path / "out")({"image_id": 99, "file_name": "99.jpg"})


@pytest.mark.parametrize("kind", ["instances", "semantic"])
def test_missing_and_double_files_of_cityscapes(cityscapes, tmp_path, kind):
    item, suffix = cityscapes.items[0], ".txt" if kind == "instances" else ".png"
    (file,) = (tmp_path / "out" / kind).glob(f"{item['image_id']}*{suffix}")
    copy = tmp_path / "out" / kind / "deep" / f"{item['image_id']}{suffix}"
    copy.parent.mkdir()
    shutil.copy(file, copy)
    with pytest.raises(EvaluationError, match="several predictions for image"):
        PredictionFolder(cityscapes.name, tmp_path / "out")(item)
    file.unlink()
    copy.unlink()
    message = rf"no prediction for image {item['image_id']}: no file {item['image_id']}\*{suffix}"
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(cityscapes.name, tmp_path / "out")(item)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../../gtFine/val/x.png 26 0.5", "line 1: |not inside"),
        ("/etc/x.png 26 0.5", "not inside"),
        ("masks/nothing.png 26 0.5", "cannot read .*nothing.png"),
        ("masks/m.png 26", "is not .mask.png labelId confidence"),
        ("masks/m.png  26 0.5", "is not .mask.png labelId confidence"),
        ("masks/m.png 26 nan", "is not .mask.png labelId confidence"),
        ("masks/m.png 26.5 0.5", "is not .mask.png labelId confidence"),
        ("masks/m.png car 0.5", "is not .mask.png labelId confidence"),
        ("masks/m.png 255 0.5", "unknown label id 255: .*not train ids"),
        ("masks/m.png 26 0.5\nmasks/../masks/m.png 26 0.5", "line 2: .*named twice"),
        ("masks/small.png 26 0.5", r"small.png is \(2, 2\), the image"),
    ],
)
def test_texts_that_cannot_be(cityscapes, tmp_path, line, message):
    folder = tmp_path / "out" / "instances"
    Image.new("L", (56, 40)).save(folder / "masks" / "m.png")
    Image.new("L", (2, 2)).save(folder / "masks" / "small.png")
    Image.new("L", (56, 40)).save(tmp_path / "gtFine" / "val" / "x.png")
    text = folder / f"{cityscapes.items[0]['image_id']}_pred.txt"
    text.write_text(line + "\n")
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(cityscapes.name, tmp_path / "out")(cityscapes.items[0])


def test_labels_that_are_not_evaluated_do_not_count(cityscapes, tmp_path):
    folder, item = tmp_path / "out", cityscapes.items[0]
    Image.new("L", (56, 40), 1).save(folder / "instances" / "masks" / "m.png")  # any grey counts
    text = folder / "instances" / f"{item['image_id']}_pred.txt"
    text.write_text("masks/m.png 26.0 0.1234567890123456\nmasks/../masks/none.png 29 0.5\n")
    labels = np.zeros((40, 56), dtype=np.uint8)
    labels[:, :3], labels[:, 3:6] = 29, 26
    Image.fromarray(labels).save(folder / "semantic" / f"{item['image_id']}_pred_labelIds.png")
    output = PredictionFolder(cityscapes.name, folder)(item)
    assert output["instances"].scores.tolist() == [0.1234567890123456]
    assert output["instances"].pred_classes.tolist() == [13]
    assert output["instances"].pred_masks.all()
    assert set(output["sem_seg"][:, :3].unique().tolist()) == {-1}
    assert set(output["sem_seg"][:, 3:6].unique().tolist()) == {13}


def test_label_pictures_that_cannot_be(cityscapes, tmp_path):
    item = cityscapes.items[0]
    file = tmp_path / "out" / "semantic" / f"{item['image_id']}_pred_labelIds.png"
    read = PredictionFolder(cityscapes.name, tmp_path / "out")
    Image.new("L", (56, 40), 255).save(file)
    with pytest.raises(EvaluationError, match=r"unknown label id 255: .*not train ids"):
        read(item)
    Image.new("L", (40, 56)).save(file)
    with pytest.raises(EvaluationError, match=r"is \(56, 40\), the image \(40, 56\)"):
        read(item)
    Image.new("RGB", (56, 40)).save(file)
    with pytest.raises(EvaluationError, match="3 channels"):
        read(item)
    file.write_bytes(b"\x89PNG")
    with pytest.raises(EvaluationError, match=f"cannot read {re.escape(str(file))}"):
        read(item)


def test_the_size_of_an_image_may_come_from_its_file(coco, tmp_path):
    item = {key: value for key, value in coco.items[0].items() if key not in ("height", "width")}
    read = PredictionFolder(coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match="cannot read anywhere"):
        read(item)
    Image.new("RGB", (18, 14)).save(tmp_path / "a.png")
    assert read(item | {"file_name": str(tmp_path / "a.png")})["sem_seg"].shape == (14, 18)
