"""The generated datasets pass through the real catalogs, loaders and official evaluators."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from panoptic_dl.config import build, compose
from panoptic_dl.evaluation.metrics import headline
from tests.evaluation.truth import evaluate, predict

SMALL = ["dataset.root.num_train=2", "dataset.root.num_val=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
@pytest.mark.parametrize("kind", ["official", "streaming"])
def test_the_truth_of_a_toy_has_100_in_every_figure(dataset, task, kind):
    cfg = compose([f"dataset={dataset}", f"task={task}", *SMALL])
    panoptic, name = build(cfg.dataset.test.panoptic), build(cfg.dataset.test[task])
    assert name.startswith("toy_")
    truth = sorted(DatasetCatalog.get(panoptic), key=lambda record: record["file_name"])
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    things = set(cfg.dataset.thing_ids)
    outputs = [predict(record, cfg.dataset.num_classes, things) for record in truth]
    figures = {}
    for evaluator in build(cfg.dataset.evaluators[kind][task]).values():
        evaluator = evaluator() if kind == "official" else evaluator
        figures |= headline(evaluate(evaluator, records, outputs))
    assert len(figures) == (11 if task == "panoptic" else 1)
    assert figures == dict.fromkeys(figures, 100.0)


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
def test_training_samples_of_a_toy_have_classes_and_the_crop(dataset, task):
    loading = ["train.batch_size=2", "train.num_workers=0", "seed=0"]
    cfg = compose([f"dataset={dataset}", f"task={task}", *SMALL, *loading])
    height, width = cfg.dataset.crop_size
    for sample in next(iter(build(cfg.task.train_loader))):
        assert sample["image"].shape[1] <= height
        assert sample["image"].shape[2] <= width
        classes = set(np.unique(sample["sem_seg"])) - {255}
        assert classes
        assert max(classes) < cfg.dataset.num_classes
