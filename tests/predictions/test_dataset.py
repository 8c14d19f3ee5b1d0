"""Datasets whose predictions can be written, and which of their images a prediction is of."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.evaluator import StreamingEvaluator
from panoptic_dl.predictions.dataset import PredictedDataset
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


IDS = {139: "a", 1: "000000000139", "x": "x.y", "0007": "b", "7": "c"}


@pytest.mark.parametrize(
    ("entry", "image"),
    [
        ({"image_id": 139}, 139),
        ({"image_id": 139.0}, 139),  # pandas
        ({"image_id": "00139"}, 139),
        ({"image_id": "a"}, 139),  # the name of its file
        ({"image_id": "0007"}, "0007"),  # exact
        ({"image_id": "x"}, "x"),
        ({"file_name": "some/where/a.png"}, 139),
        ({"file_name": "x.y.jpg"}, "x"),
        ({"image_id": 140}, None),
        ({"image_id": "139a"}, None),
    ],
)
def test_ids_of_images_are_found_in_other_spellings(entry, image):
    found = of_images(IDS).find_image(entry)
    assert found == image
    assert type(found) in (type(image), float)


@pytest.mark.parametrize("given", [7, "007", "000000000139"])
def test_an_id_that_fits_two_images_is_refused(given):
    with pytest.raises(EvaluationError, match=rf"image_id {given!r} .* may mean the images .* and"):
        of_images(IDS).find_image({"image_id": given})


def test_ids_that_are_none_are_shown_beside_those_of_the_dataset(coco, tmp_path):
    file = tmp_path / "detections_x.json"
    one = {"category_id": 1, "score": 1, "segmentation": {}}
    file.write_text(json.dumps([one | {"image_id": "img-5"}]))
    with pytest.raises(EvaluationError, match=r"such as 'img-5', where the dataset has 5"):
        PredictionFolder(coco.name, tmp_path)
    file.write_text(json.dumps([one]))
    with pytest.raises(EvaluationError, match='entry 0 has no valid "image_id"'):
        PredictionFolder(coco.name, tmp_path)


def of_images(images):
    return PredictedDataset("d", False, "val", images, {0: 1}, frozenset({0}), {0: 1}, 1000)


def test_images_come_once_and_belong_to_the_dataset(coco, tmp_path):
    (evaluator,) = prediction_writers(coco.name, "panoptic", tmp_path / "out")
    evaluator.reset()
    evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match=r"image 5 .* twice"):
        evaluator.process(coco.items[:1], coco.outputs[:1])
    with pytest.raises(EvaluationError, match="image 4 "):
        evaluator.process([{"image_id": 4}], coco.outputs[:1])
