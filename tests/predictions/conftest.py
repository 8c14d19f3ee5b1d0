"""Toys, generated once for all tests, and small datasets with saved predictions."""

import pytest

from panoptic_dl.predictions.dataset import KINDS
from tests.predictions.datasets import coco_scenes, save, streets


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))


@pytest.fixture
def saved_coco(tmp_path):
    predicted = coco_scenes(tmp_path, range(1, 7))
    save(predicted, KINDS, tmp_path / "out")
    return predicted


@pytest.fixture
def saved_cityscapes(tmp_path):
    predicted = streets(tmp_path, range(4))
    save(predicted, ["instances", "semantic"], tmp_path / "out")
    return predicted


@pytest.fixture
def coco(tmp_path):
    return coco_scenes(tmp_path, range(6))


@pytest.fixture
def cityscapes(tmp_path):
    return streets(tmp_path, range(4))
