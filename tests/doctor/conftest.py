"""Datasets that many tests read, written once a session."""

import pytest

from tests.doctor.broken import write_healthy


@pytest.fixture(scope="session")
def healthy(tmp_path_factory):
    """Folders of datasets without a fault, by "cityscapes" and "coco"; tests only read them."""
    return {
        kind: write_healthy(tmp_path_factory.mktemp("healthy"), kind)
        for kind in ("cityscapes", "coco")
    }


@pytest.fixture(scope="session")
def root(healthy):
    """Folder of the healthy Cityscapes."""
    return healthy["cityscapes"]
