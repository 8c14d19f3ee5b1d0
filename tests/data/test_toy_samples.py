"""Training samples of the toy datasets."""

import numpy as np
import pytest

from panoptic_dl.config import build, compose

SMALL = ["dataset.root.num_train=2", "dataset.root.num_val=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))


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
