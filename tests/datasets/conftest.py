"""Small datasets in the official layouts, and catalogs that forget them."""

import shutil

import pytest

from panoptic_dl.datasets import registry
from tests.datasets.tiny_datasets import write_cityscapes, write_coco


@pytest.fixture(scope="session")
def complete(tmp_path_factory):
    root = tmp_path_factory.mktemp("complete")
    write_cityscapes(root, train=3, val=2)
    write_coco(root, train=4, val=2)
    return root


@pytest.fixture
def cityscapes(complete, tmp_path):
    shutil.copytree(complete / "cityscapes", tmp_path / "data" / "cityscapes")
    return tmp_path / "data"


@pytest.fixture
def coco(complete, tmp_path):
    shutil.copytree(complete / "coco", tmp_path / "data" / "coco")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """Registrations of one test are not taken for those of another."""
    monkeypatch.setattr(registry, "_registered", {})
