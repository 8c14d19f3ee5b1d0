"""A run of each task, and a folder of photos."""

import pytest
from PIL import Image

from panoptic_dl.demo.predictor import Predictor
from tests.demo.samples import make_run, scene


@pytest.fixture(scope="session")
def panoptic_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("panoptic") / "run")


@pytest.fixture(scope="session")
def semantic_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("semantic") / "run", "task=semantic")


@pytest.fixture(scope="session")
def predictor(panoptic_run):
    return Predictor.from_run(panoptic_run.folder, device="cpu", branches=True)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    for number, name in enumerate(("a/x.jpg", "b/x.jpg", "y.jpg", "y.png", "z.png")):
        Image.fromarray(scene(64, 128 + number, number)).save(folder / name)
    return folder
