"""Readers of Cityscapes' files: what cannot be right, and what does not count."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.folder import PredictionFolder


@pytest.mark.parametrize("kind", ["instances", "semantic"])
def test_missing_and_double_files_of_cityscapes(saved_cityscapes, tmp_path, kind):
    item, suffix = saved_cityscapes.items[0], ".txt" if kind == "instances" else ".png"
    (file,) = (tmp_path / "out" / kind).glob(f"{item['image_id']}*{suffix}")
    copy = tmp_path / "out" / kind / "deep" / f"{item['image_id']}{suffix}"
    copy.parent.mkdir()
    shutil.copy(file, copy)
    with pytest.raises(EvaluationError, match="several predictions for image"):
        PredictionFolder(saved_cityscapes.name, tmp_path / "out")(item)
    file.unlink()
    copy.unlink()
    message = rf"no prediction for image {item['image_id']}: no file {item['image_id']}\*{suffix}"
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_cityscapes.name, tmp_path / "out")(item)


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
def test_texts_that_cannot_be(saved_cityscapes, tmp_path, line, message):
    folder = tmp_path / "out" / "instances"
    Image.new("L", (56, 40)).save(folder / "masks" / "m.png")
    Image.new("L", (2, 2)).save(folder / "masks" / "small.png")
    Image.new("L", (56, 40)).save(tmp_path / "gtFine" / "val" / "x.png")
    text = folder / f"{saved_cityscapes.items[0]['image_id']}_pred.txt"
    text.write_text(line + "\n")
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_cityscapes.name, tmp_path / "out")(saved_cityscapes.items[0])


def test_labels_that_are_not_evaluated_do_not_count(saved_cityscapes, tmp_path):
    folder, item = tmp_path / "out", saved_cityscapes.items[0]
    Image.new("L", (56, 40), 1).save(folder / "instances" / "masks" / "m.png")  # any grey counts
    text = folder / "instances" / f"{item['image_id']}_pred.txt"
    text.write_text("masks/m.png 26.0 0.1234567890123456\nmasks/../masks/none.png 29 0.5\n")
    labels = np.zeros((40, 56), dtype=np.uint8)
    labels[:, :3], labels[:, 3:6] = 29, 26
    Image.fromarray(labels).save(folder / "semantic" / f"{item['image_id']}_pred_labelIds.png")
    output = PredictionFolder(saved_cityscapes.name, folder)(item)
    assert output["instances"].scores.tolist() == [0.1234567890123456]
    assert output["instances"].pred_classes.tolist() == [13]
    assert output["instances"].pred_masks.all()
    assert set(output["sem_seg"][:, :3].unique().tolist()) == {-1}
    assert set(output["sem_seg"][:, 3:6].unique().tolist()) == {13}


def test_instances_of_labels_without_any_are_warned_of(saved_cityscapes, tmp_path, caplog):
    folder, item = tmp_path / "out" / "instances", saved_cityscapes.items[0]
    for name in "ab":
        Image.new("L", (56, 40), 1).save(folder / "masks" / f"{name}.png")
    text = folder / f"{item['image_id']}_pred.txt"
    text.write_text("masks/a.png 13 0.5\nmasks/b.png 13 0.5\n")
    PredictionFolder(saved_cityscapes.name, tmp_path / "out")(item)
    assert caplog.text.count("label id 13 (fence) has no instances and does not count") == 1
    assert "not train ids" in caplog.text


@pytest.mark.parametrize(
    ("label", "share", "message"),
    [
        (0, 1.0, r"more than half .* such as 0 \(unlabeled\): .*not train ids"),
        (0, 0.4, None),
        (29, 0.1, "caravans and trailers are no class here"),
        (16, 0.1, None),
    ],
)
def test_labels_that_look_wrong_are_warned_of(
    saved_cityscapes, tmp_path, caplog, label, share, message
):
    item = saved_cityscapes.items[0]
    file = tmp_path / "out" / "semantic" / f"{item['image_id']}_pred_labelIds.png"
    labels = np.full((40, 56), 7, dtype=np.uint8)
    labels[:, : round(56 * share)] = label
    Image.fromarray(labels).save(file)
    read = PredictionFolder(saved_cityscapes.name, tmp_path / "out")
    for _ in range(2):
        read(item)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (message is not None)  # once
    assert all(re.search(message, each) for each in warned)


def test_label_pictures_that_cannot_be(saved_cityscapes, tmp_path):
    item = saved_cityscapes.items[0]
    file = tmp_path / "out" / "semantic" / f"{item['image_id']}_pred_labelIds.png"
    read = PredictionFolder(saved_cityscapes.name, tmp_path / "out")
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
