"""Readers of Cityscapes' files: what cannot be right, and what does not count."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.folder import PredictionFolder


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
