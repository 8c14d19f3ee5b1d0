"""mode=demo with an exported file: no model is built, and no dataset and no weights are needed."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import DemoError, WeightsError
from panoptic_dl.runtime import Session
from panoptic_dl.weights.files import read_weights
from tests.demo.samples import files, make_video
from tests.runtime.samples import write_exported


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("exported") / "model.onnx")


def run(weights, inputs, run_dir, *overrides):
    words = [f"weights={weights}", f"input={inputs}", f"run_dir={run_dir}", "demo.num_workers=2"]
    run_dir.mkdir(parents=True, exist_ok=True)
    return build(compose(["mode=demo", *words, *overrides]).mode, device="cpu")


def test_pictures_videos_and_files(exported, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.demo.demo.Predictor", None)  # no model is built
    make_video(photos / "v.mp4", frames=3, size=(64, 128))
    saved = "demo.save=[panoptic,instances,masks]"
    done = run(exported, photos, tmp_path / "out", saved, "demo.format=png", "demo.batch_size=2")
    assert done["metrics"]["images"] == 8
    folder, session = tmp_path / "out" / "demo", Session(exported)
    drawn = np.asarray(Image.open(folder / "panoptic" / "z.png"))
    result = session(photos / "z.png")
    assert np.array_equal(drawn, result.draw())
    assert np.array_equal(np.asarray(Image.open(folder / "masks" / "z.png")), result.semantic)
    content = json.loads((folder / "coco_panoptic.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["road", "sky", "person"]
    assert len(content["images"]) == 8
    assert json.loads((folder / "classes.json").read_text())["names"] == ["road", "sky", "person"]
    assert cv2.VideoCapture(str(folder / "panoptic" / "v.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_semantic_file_draws_classes(photos, tmp_path):
    file = write_exported(tmp_path / "s.onnx", task="semantic")
    run(file, photos / "z.png", tmp_path / "out", "demo.layout=both")
    assert files(tmp_path / "out" / "demo") == ["semantic/z.jpg", "side_by_side/z.jpg"]
    with pytest.raises(DemoError, match=r"demo\.views: a model of the semantic task has no view"):
        run(file, photos, tmp_path / "other", "demo.views=panoptic")


def test_in_a_run_folder_the_file_alone_counts(exported, photos, panoptic_run, tmp_path):
    file = panoptic_run.folder / "model.onnx"
    file.write_bytes(exported.read_bytes())
    done = run(file, photos / "z.png", tmp_path / "out", "demo.maps=network")
    assert done["metrics"]["images"] == 1
    file.unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo.precision=bf16"], "has the precision that it was exported with"),
        (["demo.views=center"], "tells no centers and offsets: leave out"),
        (["demo.views=[panoptic,offset]"], "tells no centers and offsets: leave out"),
        (["experiment=toy_quickstart"], "experiment=toy_quickstart: weights=.* leave that out"),
        (["dataset.center_threshold=0.3"], r"dataset\.center_threshold=0\.3: .* mode=export"),
        (["backbone=hrnet48"], "backbone=hrnet48: weights="),
    ],
)
def test_what_a_file_cannot_do_is_one_error(exported, photos, tmp_path, words, message):
    with pytest.raises(ValueError, match=message) as error:
        run(exported, photos, tmp_path / "out", *words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["train", "analyze", "browse", "doctor"])
def test_other_modes_do_not_take_it(exported, mode):
    said = f"an exported file, which mode={mode} does not take, but mode=demo, eval, benchmark"
    with pytest.raises(ValueError, match=said):
        compose([f"mode={mode}", f"weights={exported}"])


def test_no_other_network_is_timed_beside_a_file_that_was_moved(exported):
    with pytest.raises(ValueError, match=r"lies in no run's folder.*give experiment="):
        compose(["mode=benchmark", f"weights={exported}"])
    compose(["mode=benchmark", f"weights={exported}", "backbone=hrnet48"])


def test_the_reader_of_weights_says_who_takes_it(exported, tmp_path):
    with pytest.raises(WeightsError, match="is an exported file: mode=demo"):
        read_weights(exported)
    (tmp_path / "model.pt2").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"torch\.export\.load and"):
        read_weights(tmp_path / "model.pt2")
    with pytest.raises(WeightsError, match=r"none\.onnx: there is no such file"):
        run(tmp_path / "none.onnx", "x.png", tmp_path / "out")
