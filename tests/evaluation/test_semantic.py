"""Semantic metrics: those of Detectron2, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl.core.errors import DatasetError, EvaluationError
from panoptic_dl.evaluation.official import OfficialSemanticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator, predicted_labels
from tests.evaluation.model_outputs import evaluate
from tests.evaluation.semantic_labels import NUM_CLASSES, labelled_dataset

CLOSE = {"rel": 1e-12, "abs": 1e-12, "nan_ok": True}


@settings(max_examples=60, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=1, max_size=4, unique=True))
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_figures_are_those_of_detectron2(seeds):
    name, records, outputs = labelled_dataset(seeds)
    theirs = evaluate(OfficialSemanticEvaluator(name), records, outputs)["sem_seg"]
    ours = evaluate(StreamingSemanticEvaluator(name), records, outputs)["sem_seg"]
    assert ours.pop("num_images") == len(seeds)
    if (theirs["fwIoU"] == 0) and math.isnan(theirs["mIoU"]):
        theirs["fwIoU"] = math.nan  # void everywhere: Detectron2 says 0 here, NaN elsewhere
    assert ours == pytest.approx(theirs, **CLOSE)
    assert math.isnan(ours["IoU-class1"])


def test_a_label_that_is_no_class_is_an_error():
    name, records, outputs = labelled_dataset([1])
    file = records[0]["sem_seg_file_name"]
    label = np.array(Image.open(file))
    for stranger in (NUM_CLASSES, NUM_CLASSES + 1, 254):
        label[0, 0] = stranger
        Image.fromarray(label).save(file)
        with pytest.raises(DatasetError, match=rf"1\.jpg\.png: label id {stranger} \(1 pixels\)"):
            StreamingSemanticEvaluator(name).process(records, outputs)


def test_scores_must_fit_the_dataset():
    scores = torch.randn(5, 20, 30)
    assert (predicted_labels(scores, 5) == scores.argmax(dim=0).numpy()).all()
    for wrong in (torch.zeros(4, 2, 2), torch.zeros(5, 2)):
        with pytest.raises(EvaluationError, match="one score for each class"):
            predicted_labels(wrong, 5)


def test_scores_that_are_no_numbers_are_refused():
    for place in (0, 3):
        scores = torch.randn(5, 20, 30)
        scores[place, 7, 7] = torch.nan
        with pytest.raises(EvaluationError, match="not a number"):
            predicted_labels(scores, 5)
    assert predicted_labels(torch.full((2, 3, 4), torch.inf), 2).max() == 0


def test_classes_outside_mean_none():
    classes = torch.tensor([[0, 4, 5], [-1, 255, 2]])
    assert predicted_labels(classes, 5).tolist() == [[0, 4, 5], [5, 5, 2]]
