"""Datasets whose predictions can be written, and which of their images a prediction is of."""

from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.evaluator import StreamingEvaluator
from panoptic_dl.predictions.folder import PredictionFolder, prediction_writers
from tests.predictions.datasets import toy


def test_unknown_kinds_are_refused(coco, tmp_path):
    with pytest.raises(ValueError, match="cannot save 'boxes': choose from panoptic, instances, s"):
        prediction_writers(coco.name, ["panoptic", "boxes"], tmp_path)
    assert prediction_writers(coco.name, [], tmp_path) == []
    twice = prediction_writers(coco.name, ["semantic", "semantic"], tmp_path)
    assert len(twice) == 1
    assert isinstance(twice[0], StreamingEvaluator)


@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
@pytest.mark.parametrize("kind", ["panoptic", "instances"])
def test_the_semantic_task_has_semantic_predictions_only(tmp_path, dataset, kind):
    with pytest.raises(ValueError, match=rf"cannot save {kind} .*task=panoptic"):
        prediction_writers(toy(dataset, "semantic").name, kind, tmp_path)


def test_a_dataset_of_another_kind_is_refused(tmp_path):
    DatasetCatalog.register("predicted_other", lambda: [])
    MetadataCatalog.get("predicted_other").stuff_classes = ["a"]
    with pytest.raises(EvaluationError, match="no format of prediction files is known"):
        prediction_writers("predicted_other", "semantic", tmp_path)


def test_names_of_files_must_differ_only_where_files_have_the_names_of_images(saved_coco, tmp_path):
    first, second = saved_coco.items[:2]
    second["file_name"] = "elsewhere/" + Path(first["file_name"]).name
    numbers = f"{first['image_id']} and {second['image_id']}"
    with pytest.raises(EvaluationError, match=rf"images {numbers} .*save=panoptic .*rename one"):
        prediction_writers(saved_coco.name, "panoptic", tmp_path)
    assert len(prediction_writers(saved_coco.name, ["instances", "semantic"], tmp_path)) == 2
    # Files of others name images by id.
    read = PredictionFolder(saved_coco.name, tmp_path / "out")
    for item, output in zip(saved_coco.items, saved_coco.outputs, strict=True):
        assert torch.equal(read(item)["panoptic_seg"][0], output["panoptic_seg"][0])


def test_images_come_once_and_belong_to_the_dataset(coco, tmp_path):
    (evaluator,) = prediction_writers(coco.name, "panoptic", tmp_path / "out")
    evaluator.reset()
    evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match=r"image 5 .* twice"):
        evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match="image 4 "):
        evaluator.process([{"image_id": 4}], coco.outputs[:1])
