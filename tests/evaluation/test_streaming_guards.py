"""What the streaming panoptic quality refuses, by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import ImageFile

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.panoptic import (
    StreamingPanopticEvaluator,
    match_listed_segments,
    match_segments,
)
from tests.evaluation.panoptic_scenes import NUM_CLASSES, outputs_of, register
from tests.evaluation.scenes import DIVISOR, panoptic_scene
from tests.evaluation.truth import evaluate


@pytest.fixture
def two(tmp_path):
    scenes = [panoptic_scene(seed) for seed in (1, 2)]
    name = register(scenes, tmp_path)
    return DatasetCatalog.get(name), outputs_of(scenes), StreamingPanopticEvaluator(name)


def test_an_image_that_nobody_evaluated_is_named(two):
    records, outputs, evaluator = two
    with pytest.raises(EvaluationError, match=r"no prediction for image 0 .*1 predictions for 2"):
        evaluate(evaluator, records[1:], outputs[1:])


def test_an_image_without_truth_is_named(two):
    records, outputs, evaluator = two
    with pytest.raises(EvaluationError, match="no truth for image 17"):
        evaluator.process([records[0] | {"image_id": 17}], outputs[:1])


def test_an_image_that_comes_twice_is_named(two):
    records, outputs, evaluator = two
    evaluator.process(records, outputs)
    with pytest.raises(EvaluationError, match=r"image 1 of .* twice"):
        evaluator.process(records[1:], outputs[1:])
    evaluator.reset()
    evaluator.process(records[1:], outputs[1:])


def test_a_label_that_cannot_be_read_is_named(two):
    records, outputs, evaluator = two
    file = records[1]["pan_seg_file_name"]
    with open(file, "rb+") as opened:
        opened.truncate(60)
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluator.process(records, outputs)


@pytest.mark.parametrize("label", [-2, NUM_CLASSES * DIVISOR])
def test_a_prediction_outside_the_classes_is_an_error(two, label):
    records, outputs, evaluator = two
    outputs[0]["panoptic_seg"][0][0, 0] = label
    with pytest.raises(EvaluationError, match=f"image 0: predicted panoptic id {label} is neither"):
        evaluator.process(records, outputs)


def test_another_size_is_an_error(two):
    records, outputs, evaluator = two
    outputs[0]["panoptic_seg"] = (outputs[0]["panoptic_seg"][0].T, None)
    with pytest.raises(EvaluationError, match=r"image 0: the prediction is \(18, 14\)"):
        evaluator.process(records, outputs)


def test_an_impossible_figure_is_refused(two):
    records, outputs, evaluator = two
    evaluator.process(records, outputs)
    evaluator._counts[:, 0] += 50  # nothing but a broken program can do this
    with pytest.raises(EvaluationError, match="is no percentage"):
        evaluator.evaluate()


@pytest.mark.parametrize("categories", [{}, {4: 0, 5: 0}])
def test_list_and_map_of_segments_must_agree(categories):
    predicted = np.full((2, 2), 4)
    with pytest.raises(EvaluationError, match=r"predicted segment [45] is in the"):
        match_listed_segments(predicted, [], predicted, categories, num_classes=9)


def test_a_segment_with_the_id_of_void_is_an_error():
    image = np.zeros((2, 2), dtype=np.int64)
    segments = [{"id": 0, "category_id": 0, "iscrowd": 0}]
    with pytest.raises(EvaluationError, match="0 is void"):
        match_segments(image, segments, image, num_classes=1, label_divisor=DIVISOR)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({}, 'image 0: the model\'s output has no "panoptic_seg"'),
        ({"panoptic_seg": None}, 'has no "panoptic_seg"'),
        ({"panoptic_seg": (torch.zeros(14, 18), None)}, "holds torch.float32, not integers"),
    ],
)
def test_outputs_that_are_none_are_named(two, output, message):
    records, _, evaluator = two
    with pytest.raises(EvaluationError, match=message):
        evaluator.process(records[:1], [output])


def test_torn_labels_are_refused_whatever_pillow_was_told(two, monkeypatch):
    records, outputs, evaluator = two
    file = Path(records[0]["pan_seg_file_name"])
    file.write_bytes(file.read_bytes()[:-40])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluator.process(records[:1], outputs[:1])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_an_unknown_id_of_the_dataset_is_refused(two):
    records, outputs, evaluator = two
    ids = torch.ones_like(outputs[0]["panoptic_seg"][0])
    listed = [{"id": 1, "category_id": 77}]
    with pytest.raises(EvaluationError, match="predicted segment 1: category -1 is outside"):
        evaluator.process(records[:1], [{"panoptic_seg": (ids, listed)}])
