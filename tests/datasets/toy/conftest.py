"""Small toy data sets, made once for all tests of this folder."""

from pathlib import Path

import pytest

from panoptic_dl.datasets.toy import toy_cityscapes, toy_coco
from panoptic_dl.datasets.toy.cityscapes import ALL_CLASSES


@pytest.fixture(scope="session")
def toy_streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `cityscapes` folder of a small set with every class."""
    root = tmp_path_factory.mktemp("streets")
    folder = toy_cityscapes(
        root=str(root), num_train=14, num_val=4, size=(96, 192), classes=ALL_CLASSES
    )
    return Path(folder) / "cityscapes"


@pytest.fixture(scope="session")
def toy_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `coco` folder of a small set."""
    root = tmp_path_factory.mktemp("scenes")
    return Path(toy_coco(root=str(root), num_train=40, num_val=6, size=(96, 128))) / "coco"
