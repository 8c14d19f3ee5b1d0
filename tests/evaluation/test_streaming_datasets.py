"""A model that errs has the same figures in streaming and official evaluators, on datasets."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from panoptic_dl.config import build, compose
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    OfficialCityscapesSemanticEvaluator,
    OfficialPanopticEvaluator,
    OfficialSemanticEvaluator,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from tests.evaluation.truth import LABEL_DIVISOR, make_instances, predict

REAL = Path(os.environ.get("PANOPTIC_DL_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SMALL = ["dataset.root.num_train=1", "dataset.root.num_val=3"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))


def err(
    record: dict,
    num_classes: int,
    thing_ids: set[int],
    draw: np.random.Generator,
    *,
    with_logits: bool = True,
) -> dict:
    """The truth, moved by some pixels and with holes; some things have another class."""
    perfect = predict(record, num_classes, thing_ids, with_logits=False)["panoptic_seg"][0].numpy()
    panoptic = np.roll(perfect, draw.integers(0, 6, 2), axis=(0, 1))
    for label in np.unique(panoptic):
        if draw.random() < 0.1 and label >= 0:
            other = draw.integers(num_classes) * LABEL_DIVISOR + 900
            panoptic[(panoptic == label) & (draw.random(panoptic.shape) < 0.9)] = other
    things = [
        label for label in np.unique(panoptic) if label >= 0 and label // LABEL_DIVISOR in thing_ids
    ]
    output = {"panoptic_seg": (torch.from_numpy(panoptic), None)}
    if with_logits:
        semantic = torch.from_numpy(np.where(panoptic < 0, 0, panoptic // LABEL_DIVISOR))
        one_hot = torch.nn.functional.one_hot(semantic, num_classes)
        output["sem_seg"] = one_hot.permute(2, 0, 1).float()
    if things:
        output["instances"] = make_instances(
            np.stack([panoptic == label for label in things]),
            [int(label) // LABEL_DIVISOR for label in things],
            draw.random(len(things)).astype(np.float32).tolist(),
        )
    return output


def compare(pairs, records, num_classes, thing_ids, tolerance=1e-10) -> list[dict]:
    """Evaluate by all pairs of evaluators; figures are percentages, so 1e-10 is 1e-12 of 1."""
    for evaluator in (evaluator for pair in pairs for evaluator in pair):
        evaluator.reset()
    draw = np.random.default_rng(0)
    for record in records:
        output = err(record, num_classes, thing_ids, draw)
        for evaluator in (evaluator for pair in pairs for evaluator in pair):
            evaluator.process([record], [output])
    results = []
    for ours, theirs in pairs:
        (found,), (expected,) = ours.evaluate().values(), theirs.evaluate().values()
        assert {key: found[key] for key in expected} == pytest.approx(
            expected, rel=0, abs=tolerance, nan_ok=True
        )
        assert found["num_images"] == len(records)
        results.append(found)
    return results


def test_toy_cityscapes():
    cfg = compose(["dataset=toy_cityscapes", "task=panoptic", *SMALL])
    name = build(cfg.dataset.test.panoptic)
    pairs = [
        (StreamingPanopticEvaluator(name), OfficialPanopticEvaluator(name)),
        (
            StreamingCityscapesSemanticEvaluator(name),
            OfficialCityscapesSemanticEvaluator(name),
        ),
        (
            StreamingCityscapesInstanceEvaluator(name),
            OfficialCityscapesInstanceEvaluator(name),
        ),
    ]
    panoptic, semantic, instance = compare(
        pairs, DatasetCatalog.get(name), cfg.dataset.num_classes, set(cfg.dataset.thing_ids)
    )
    assert 5 < panoptic["PQ"] < 95
    assert panoptic["num_wrong_areas"] == 0
    assert 5 < semantic["IoU"] < 95
    assert 5 < instance["AP"] < 95


def compare_coco(root: str, prefix: str, num_images: int) -> None:
    name = coco_panoptic(root=root, split="val", prefix=prefix)
    labels = coco_semantic(root=root, split="val", prefix=prefix)
    reader = SemanticLabelReader(num_classes=133)
    pairs = [
        (StreamingPanopticEvaluator(name), OfficialPanopticEvaluator(name)),
        (
            StreamingSemanticEvaluator(labels, reader),
            OfficialSemanticEvaluator(labels, read_truth=reader),
        ),
    ]
    records = DatasetCatalog.get(name)
    assert len(records) == num_images
    panoptic, semantic = compare(pairs, records, 133, set(range(80)))
    assert 5 < panoptic["PQ"] < 95
    assert panoptic["num_wrong_areas"] == 0
    assert 5 < semantic["mIoU"] < 95


def test_toy_coco():
    cfg = compose(["dataset=toy_coco", "task=panoptic", *SMALL])
    compare_coco(build(cfg.dataset.root), "toy_", 3)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_real_coco():
    compare_coco(str(REAL), "streaming_real_", 100)
