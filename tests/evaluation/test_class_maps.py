"""The official evaluators take classes, (H, W), in the place of scores."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    StreamingCityscapesSemanticEvaluator,
    to_label_ids,
)
from panoptic_dl.evaluation.official import (
    OfficialCityscapesSemanticEvaluator,
    OfficialSemanticEvaluator,
)
from tests.evaluation.scenes import semantic_scores, write_street_labels
from tests.evaluation.truth import evaluate


def streets(folder):
    labels = folder / "gtFine"
    images = [write_street_labels(labels, seed) for seed in range(6)]
    if "class_map_streets" in MetadataCatalog.list():
        MetadataCatalog.remove("class_map_streets")
    MetadataCatalog.get("class_map_streets").gt_dir = str(labels)
    records = [{"file_name": f"{image}_leftImg8bit.png"} for image in images]
    return records, [semantic_scores(labels, image, seed) for seed, image in enumerate(images)]


def test_cityscapes_script_takes_classes(tmp_path):
    records, scores = streets(tmp_path)
    evaluator = OfficialCityscapesSemanticEvaluator("class_map_streets")
    by_scores, by_classes = (
        evaluate(evaluator, records, [{"sem_seg": value} for value in values])
        for values in (scores, [value.argmax(dim=0) for value in scores])
    )
    assert by_classes == by_scores
    assert 5 < by_scores["sem_seg"]["IoU"] < 95


@pytest.mark.parametrize("none", [-1, 19, 255])
def test_cityscapes_script_counts_pixels_without_class_as_missed(tmp_path, none):
    records, scores = streets(tmp_path)
    outputs = [{"sem_seg": value.argmax(dim=0)} for value in scores]
    for output in outputs:
        output["sem_seg"][3:20] = none
    theirs = evaluate(OfficialCityscapesSemanticEvaluator("class_map_streets"), records, outputs)
    ours = evaluate(StreamingCityscapesSemanticEvaluator("class_map_streets"), records, outputs)
    expected = pytest.approx(theirs["sem_seg"], rel=0, abs=1e-10, nan_ok=True)
    assert {name: ours["sem_seg"][name] for name in theirs["sem_seg"]} == expected


def test_label_ids():
    classes = np.array([[-5, -1, 0, 13], [18, 19, 254, 255]])
    assert to_label_ids(classes).tolist() == [[0, 0, 7, 26], [33, 0, 0, 0]]
    assert to_label_ids(np.arange(19)).tolist() == [label.id for label in EVALUATED]


@pytest.fixture
def classes_and_evaluator():
    records = [{"file_name": "a.png"}, {"file_name": "b.png"}]
    DatasetCatalog.register("class_maps", lambda: records)
    MetadataCatalog.get("class_maps").set(stuff_classes=list("abcd"), ignore_label=9)
    draw = np.random.default_rng(0)
    truth = {record["file_name"]: draw.integers(0, 4, (6, 7)) for record in records}
    truth["a.png"][0] = 9
    classes = torch.from_numpy(draw.integers(0, 4, (2, 6, 7)))
    yield (
        records,
        classes,
        OfficialSemanticEvaluator("class_maps", lambda record: truth[record["file_name"]]),
    )
    DatasetCatalog.remove("class_maps")
    MetadataCatalog.remove("class_maps")


def test_detectron2s_evaluator_takes_classes(classes_and_evaluator):
    records, classes, evaluator = classes_and_evaluator
    scores = torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float()
    by_scores, by_classes = (
        evaluate(evaluator, records, [{"sem_seg": value} for value in values])
        for values in (scores, classes)
    )
    assert by_classes == by_scores
    assert 5 < by_scores["sem_seg"]["mIoU"] < 95


@pytest.mark.parametrize("none", [-1, 4, 255])
def test_detectron2s_evaluator_cannot_express_none(classes_and_evaluator, none):
    records, classes, evaluator = classes_and_evaluator
    classes[0, 2, 3] = none
    with pytest.raises(
        EvaluationError, match=r"image a.png: .*cannot express.*evaluation.official"
    ):
        evaluate(evaluator, records, [{"sem_seg": value} for value in classes])
