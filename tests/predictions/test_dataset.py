"""Datasets whose predictions can be written, and which of their images a prediction is of."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.evaluator import StreamingEvaluator
from panoptic_dl.predictions.folder import prediction_writers
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


def test_names_of_files_must_differ(coco, tmp_path):
    coco.items[1]["file_name"] = "elsewhere/" + Path(coco.items[0]["file_name"]).name
    with pytest.raises(EvaluationError, match=r"images 5 and 8 .*rename one"):
        prediction_writers(coco.name, "panoptic", tmp_path)


def test_images_come_once_and_belong_to_the_dataset(coco, tmp_path):
    (evaluator,) = prediction_writers(coco.name, "panoptic", tmp_path / "out")
    evaluator.reset()
    evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match=r"image 5 .* twice"):
        evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match="image 4 "):
        evaluator.process([{"image_id": 4}], coco.outputs[:1])
