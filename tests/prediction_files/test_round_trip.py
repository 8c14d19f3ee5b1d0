"""Predictions that are written and read again have the same figures, to the last bit."""

import json

import pytest
import torch
from detectron2.data import MetadataCatalog

from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.official import OfficialCOCOInstanceEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import PredictionFolder
from tests.evaluation.truth import evaluate
from tests.prediction_files.datasets import DATASET_IDS, coco_scenes, save, streets, toy


def same_figures(predicted, evaluators, read) -> None:
    for evaluator in evaluators:
        before, after = (
            json.dumps(evaluate(evaluator, predicted.items, outputs))
            for outputs in (predicted.outputs, [read(item) for item in predicted.items])
        )
        assert before == after


def same_instances(before, after) -> None:
    assert after.image_size == tuple(before.image_size)
    assert torch.equal(after.pred_masks, before.pred_masks)
    assert torch.equal(after.pred_classes, before.pred_classes)
    assert after.scores.tolist() == before.scores.tolist()
    if before.has("pred_boxes"):
        assert torch.equal(after.pred_boxes.tensor, before.pred_boxes.tensor)


@pytest.mark.parametrize("source", ["drawn", "toy"])
def test_coco(tmp_path, source):
    predicted = toy("toy_coco") if source == "toy" else coco_scenes(tmp_path, range(20))
    save(predicted, KINDS, tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert read.kinds == KINDS
    evaluators = [
        StreamingPanopticEvaluator(predicted.name),
        OfficialCOCOInstanceEvaluator(predicted.name),
        StreamingSemanticEvaluator(
            predicted.name, SemanticLabelReader(num_classes=133 if source == "toy" else 6)
        ),
    ]
    if source == "drawn":  # the truth of drawn scenes has unlisted ids, which that reader refuses
        evaluators.pop()
    same_figures(predicted, evaluators, read)
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        found = read(item)
        panoptic, segments = found["panoptic_seg"]
        assert segments is None
        assert torch.equal(panoptic, output["panoptic_seg"][0])
        if "instances" in output:
            same_instances(output["instances"], found["instances"])
        else:
            assert len(found["instances"]) == 0
            assert found["instances"].image_size == tuple(panoptic.shape)
        classes = output["sem_seg"]
        classes = classes if classes.ndim == 2 else classes.argmax(dim=0)
        assert torch.equal(found["sem_seg"], classes)


def test_drawn_streets(tmp_path):
    predicted = streets(tmp_path, range(10))
    save(predicted, ["semantic", "instances"], tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert read.kinds == ("instances", "semantic")
    evaluators = [
        StreamingCityscapesInstanceEvaluator(predicted.name),
        StreamingCityscapesSemanticEvaluator(predicted.name),
    ]
    same_figures(predicted, evaluators, read)
    for item, output in zip(predicted.items, predicted.outputs, strict=True):
        same_instances(output["instances"], read(item)["instances"])
        assert torch.equal(read(item)["sem_seg"], output["sem_seg"])


def test_toy_cityscapes(tmp_path):
    predicted = toy("toy_cityscapes")
    save(predicted, KINDS, tmp_path)
    read = PredictionFolder(predicted.name, tmp_path)
    assert read.kinds == KINDS
    evaluators = [
        StreamingPanopticEvaluator(predicted.name),
        StreamingCityscapesInstanceEvaluator(predicted.name),
        StreamingCityscapesSemanticEvaluator(predicted.name),
    ]
    same_figures(predicted, evaluators, read)


@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
def test_the_semantic_task(tmp_path, dataset):
    predicted = toy(dataset, "semantic")
    save(predicted, "semantic", tmp_path)
    read = PredictionFolder(predicted.name, tmp_path)
    assert read.kinds == ("semantic",)
    evaluator = (
        StreamingCityscapesSemanticEvaluator(predicted.name)
        if dataset == "toy_cityscapes"
        else StreamingSemanticEvaluator(predicted.name, SemanticLabelReader(num_classes=133))
    )
    same_figures(predicted, [evaluator], read)


def listed(output: dict, with_thing: bool) -> dict:
    """The panoptic map in Detectron2's other form: any ids, and a list of them."""
    panoptic = output["panoptic_seg"][0]
    ids, segments = torch.zeros_like(panoptic), []
    for position, label in enumerate(label for label in panoptic.unique().tolist() if label >= 0):
        number = 7 + 60_001 * position
        ids[panoptic == label] = number
        category = label // 1000
        segments.append(
            {"id": number, "category_id": category, "isthing": category < 3}
            if with_thing
            else {"id": number, "category_id": DATASET_IDS[category]}
        )
    return {"panoptic_seg": (ids, segments)}


@pytest.mark.parametrize("with_thing", [True, False])
def test_lists_of_segments(tmp_path, with_thing):
    predicted = coco_scenes(tmp_path, range(14))
    evaluator = StreamingPanopticEvaluator(predicted.name)
    before = evaluate(evaluator, predicted.items, predicted.outputs)
    predicted.outputs = [listed(output, with_thing) for output in predicted.outputs]
    save(predicted, "panoptic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    after = evaluate(evaluator, predicted.items, [read(item) for item in predicted.items])
    assert json.dumps(after) == json.dumps(before)


def test_an_image_without_any_class_is_not_a_missing_one(tmp_path):
    predicted = coco_scenes(tmp_path, range(2))
    predicted.outputs[1]["sem_seg"][:] = -1
    save(predicted, "semantic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    assert (read(predicted.items[1])["sem_seg"] == -1).all()


def test_ids_beyond_three_colours_are_counted(tmp_path):
    predicted = coco_scenes(tmp_path, range(3))
    metadata = MetadataCatalog.get(predicted.name)
    del metadata.__dict__["label_divisor"]
    metadata.label_divisor = 5_000_000
    for output in predicted.outputs:
        panoptic = output["panoptic_seg"][0]
        output["panoptic_seg"] = (
            torch.where(panoptic < 0, -1, panoptic // 1000 * 5_000_000 + panoptic % 1000),
            None,
        )
    save(predicted, "panoptic", tmp_path / "out")
    read = PredictionFolder(predicted.name, tmp_path / "out")
    same_figures(predicted, [StreamingPanopticEvaluator(predicted.name)], read)
