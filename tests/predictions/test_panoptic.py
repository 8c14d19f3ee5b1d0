"""Panoptic predictions in COCO's format: what the official programs measure, and damaged files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.predictions.folder import PredictionFolder, prediction_writers
from tests.evaluation.model_outputs import evaluate
from tests.predictions import official
from tests.predictions.datasets import coco_scenes, save, toy

EXACT = {"rel": 0, "abs": 1e-10, "nan_ok": True}  # of percentages: 1e-12

STEM = "panoptic_small7_panoptic-dl_results"


def figures_of(evaluator, predicted) -> dict:
    (figures,) = evaluate(evaluator, predicted.items, predicted.outputs).values()
    return figures


def coco_like(name, tmp_path):
    return toy("toy_coco") if name == "toy" else coco_scenes(tmp_path, range(12))


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_panopticapi_on_coco(tmp_path, source):
    predicted = coco_like(source, tmp_path)
    save(predicted, "panoptic", tmp_path / "out")
    split = "small7" if source == "drawn" else "val2017"
    file = tmp_path / "out" / "panoptic" / f"panoptic_{split}_panoptic-dl_results.json"
    ours = figures_of(StreamingPanopticEvaluator(predicted.name), predicted)
    theirs = official.quality(predicted.name, file)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["PQ"] < 95


def test_cityscapes_panoptic_script(tmp_path, monkeypatch):
    predicted = toy("toy_cityscapes")
    save(predicted, "panoptic", tmp_path)
    theirs = official.cityscapes_quality(
        predicted.name, tmp_path / "panoptic", tmp_path / "results.json", monkeypatch
    )
    ours = figures_of(StreamingPanopticEvaluator(predicted.name), predicted)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, **EXACT)
    assert 5 < theirs["PQ"] < 95
    # The server's ids: a pixel of road belongs to a segment of category 7, not 0.
    content = json.loads((tmp_path / "panoptic" / "cityscapes_panoptic_val.json").read_text())
    allowed = {label.id for label in EVALUATED}
    for entry, output in zip(content["annotations"], predicted.outputs, strict=True):
        folder = tmp_path / "panoptic" / "cityscapes_panoptic_val"
        colors = np.asarray(Image.open(folder / entry["file_name"])).astype(np.int64)
        assert colors.shape[2] == 3
        ids = colors @ [1, 256, 256**2]
        categories = {segment["id"]: segment["category_id"] for segment in entry["segments_info"]}
        assert set(categories.values()) <= allowed
        panoptic = output["panoptic_seg"][0].numpy()
        assert ((ids == 0) == (panoptic == -1)).all()
        for number, category in categories.items():
            (train_id,) = set((panoptic[ids == number] // 1000).tolist())
            assert EVALUATED[train_id].id == category
    assert 7 in categories.values()


def change(file: Path, edit) -> None:
    content = json.loads(file.read_text())
    edited = edit(content)
    file.write_text(json.dumps(edited if isinstance(edited, list) else content))


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
def test_panoptic_files_that_are_none(saved_coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    with pytest.raises(EvaluationError, match=message):
        PredictionFolder(saved_coco.name, tmp_path / "out")


def busy(content) -> dict:
    """The first image's entry, which has segments."""
    assert content["annotations"][0]["segments_info"]
    return content["annotations"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["annotations"].pop(0), "no prediction for image 5 in .*json.*whole split"),
        (lambda c: busy(c)["segments_info"].pop(), r"000005\.png: segment .* in the map but not"),
        (
            lambda c: busy(c)["segments_info"].append({"id": 9, "category_id": 1}),
            r"000005\.png: segment 9 is in the list but not",
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
        (
            lambda c: busy(c).update(file_name="000000000008.png"),
            "000008.png: segment .* is in the",
        ),
    ],
)
def test_panoptic_entries_that_cannot_be(saved_coco, tmp_path, edit, message):
    change(tmp_path / "out" / "panoptic" / f"{STEM}.json", edit)
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    with pytest.raises(EvaluationError, match=message):
        read(saved_coco.items[0])
    if "000008" not in message:
        read(saved_coco.items[1])  # others are fine


def test_pictures_that_cannot_be(saved_coco, tmp_path):
    file = tmp_path / "out" / "panoptic" / STEM / "000000000005.png"
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvaluationError, match=f"cannot read {re.escape(str(file))}"):
        read(saved_coco.items[0])
    Image.new("RGB", (3, 4)).save(file)
    with pytest.raises(EvaluationError, match=rf"{re.escape(str(file))} is \(4, 3\), the image"):
        read(saved_coco.items[0])
    Image.new("L", (3, 4), 1).save(file)
    with pytest.raises(EvaluationError, match="mode is L, not RGB"):
        read(saved_coco.items[0])


@pytest.mark.parametrize(
    ("ids", "segments", "message"),
    [
        ([[-2, 0]], None, "predicted panoptic id -2"),
        ([[6000, 0]], None, "predicted panoptic id 6000"),
        ([[0, 3]], [], "segment 3 is in the map but not in the list"),
        ([[0, 0]], [{"id": 3, "category_id": 1, "isthing": True}], "in the list but not in"),
        ([[0, 3]], [{"id": 3, "category_id": 77, "isthing": True}], "category 77 is outside"),
        ([[0, 3]], [{"id": 3, "category_id": 1}] * 2, "segment 3 is listed twice"),
        ([[0, 256**3]], [{"id": 256**3, "category_id": 1}], "outside 1..16777215"),
    ],
)
def test_panoptic_maps_that_cannot_be(coco, tmp_path, ids, segments, message):
    (evaluator,) = prediction_writers(coco.name, "panoptic", tmp_path / "out")
    evaluator.reset()
    output = {"panoptic_seg": (torch.tensor(ids), segments)}
    with pytest.raises(EvaluationError, match=f"image 5: .*{message}"):
        evaluator.process(coco.items[:1], [output])
