"""Cityscapes' files: what the official scripts measure, damaged files, and what does not count."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    StreamingCityscapesSemanticEvaluator,
)
from panoptic_dl.predictions.folder import PredictionFolder
from tests.evaluation.model_outputs import evaluate
from tests.predictions import official
from tests.predictions.datasets import save, streets, toy

EXACT = {"rel": 0, "abs": 1e-10, "nan_ok": True}  # of percentages: 1e-12

CLOSE = {"rel": 0, "abs": 1e-7, "nan_ok": True}


def figures_of(evaluator, predicted) -> dict:
    (figures,) = evaluate(evaluator, predicted.items, predicted.outputs).values()
    return figures


def street_like(name, tmp_path):
    return toy("toy_cityscapes") if name == "toy" else streets(tmp_path, range(8))


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_cityscapes_pixel_script(tmp_path, source):
    predicted = street_like(source, tmp_path)
    save(predicted, ["semantic", "instances"], tmp_path / "out")  # masks are no second prediction
    theirs = official.cityscapes_iou(predicted.name, tmp_path / "out" / "semantic")
    ours = figures_of(StreamingCityscapesSemanticEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["IoU"] < 95


@pytest.mark.parametrize("source", ["drawn", "toy"])
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning")
def test_cityscapes_instance_script(tmp_path, source, monkeypatch):
    predicted = street_like(source, tmp_path)
    save(predicted, "instances", tmp_path / "out")
    theirs = official.cityscapes_ap(
        predicted.name, tmp_path / "out" / "instances", tmp_path / "none.json", monkeypatch
    )
    ours = figures_of(StreamingCityscapesInstanceEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **CLOSE)
    assert 2 < theirs["AP"] < 95


def test_cityscapes_files_hold_label_ids_and_whole_scores(tmp_path):
    predicted = streets(tmp_path, range(4))
    save(predicted, ["semantic", "instances"], tmp_path / "out")
    ids = {-1: 0} | {label.trainId: label.id for label in EVALUATED}
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        image = item["image_id"]
        labels = np.asarray(Image.open(tmp_path / f"out/semantic/{image}_pred_labelIds.png"))
        assert labels.dtype == np.uint8
        assert (labels == np.vectorize(ids.get)(output["sem_seg"].numpy())).all()
        lines = (tmp_path / f"out/instances/{image}_pred.txt").read_text().splitlines()
        instances = output["instances"]
        assert len(lines) == len(instances)
        for line, mask, category, score in zip(
            lines, instances.pred_masks, instances.pred_classes, instances.scores, strict=True
        ):
            name, label, confidence = line.split(" ")
            pixels = np.asarray(Image.open(tmp_path / "out/instances" / name))
            assert (pixels == np.where(mask, 255, 0)).all()
            assert int(label) == ids[int(category)]
            assert float(confidence) == float(score)


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


def test_one_warning_does_not_hide_another(saved_cityscapes, tmp_path, caplog):
    read = PredictionFolder(saved_cityscapes.name, tmp_path / "out", ["semantic"])
    for item, label in zip(saved_cityscapes.items, (0, 29), strict=False):
        labels = np.full((40, 56), 7, dtype=np.uint8)
        labels[:, : 56 if label == 0 else 9] = label
        name = f"{item['image_id']}_pred_labelIds.png"
        Image.fromarray(labels).save(tmp_path / "out" / "semantic" / name)
        read(item)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 2
    assert "more than half" in warned[0]
    assert "caravans and trailers" in warned[1]


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
    Image.new("RGB", (56, 40), (1, 2, 3)).save(file)
    with pytest.raises(EvaluationError, match="it has colors"):
        read(item)
    file.write_bytes(b"\x89PNG")
    with pytest.raises(EvaluationError, match=f"cannot read {re.escape(str(file))}"):
        read(item)
