"""`Session`: exported files give the results of `Predictor`, in a process without PyTorch."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl import Predictor
from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import DemoError, WeightsError
from panoptic_dl.runtime import PanopticResult, Session
from panoptic_dl.runtime.session import resized_size
from tests.demo.samples import scene
from tests.runtime.samples import METADATA, write_exported

ROOT = Path(__file__).parents[2]
SIDES = st.integers(1, 5000)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture
def session(exported):
    return Session(exported)


def watch(session, monkeypatch):
    """What the graph is fed from now on."""
    fed, run = [], session._session.run
    session._session = type("Watched", (), {})()
    monkeypatch.setattr(
        session._session, "run", lambda _, feeds: fed.append(feeds) or run(_, feeds), raising=False
    )
    return fed


def red_thirds(image, size):
    """Classes of the graph for an image, by Detectron2's resizing to `size` (short, longest)."""
    resize = T.ResizeShortestEdge(*size).get_transform(image)
    resize.new_h, resize.new_w = max(1, resize.new_h), max(1, resize.new_w)
    seen = resize.apply_image(image)[..., 0] // 86
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(image.shape, seen.shape, strict=False)
    )
    return seen[rows[:, None], columns]


@given(SIDES, SIDES, st.integers(1, 2000), st.integers(1, 4000))
def test_sizes_are_those_of_detectron2(height, width, short, longest):
    h, w = T.ResizeShortestEdge.get_output_shape(height, width, short, longest)
    assert resized_size(height, width, short, longest) == (max(1, h), max(1, w))


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 500), (500, 1), (5, 7), (32, 64), (33, 47), (100, 64), (20, 1500)]
)
def test_any_size_is_resized_padded_and_brought_back(session, monkeypatch, size):
    image = scene(*size)
    fed = watch(session, monkeypatch)
    result = session(image)
    assert isinstance(result, PanopticResult)
    assert result.semantic.shape == size
    assert result.semantic.dtype == np.uint8
    expected = red_thirds(image, (32, 64))
    assert (result.semantic == expected).mean() > 0.98  # edges, by the rounding of nearest
    assert np.array_equal(result.panoptic, expected_panoptic(result.semantic))
    (feeds,) = fed
    height, width = feeds["image_size"]
    assert (height, width) == resized_size(*size, 32, 64)
    assert feeds["output_size"].tolist() == list(size)
    images = feeds["images"]
    assert images.dtype == np.uint8
    assert images.shape == (1, 3, -(-height // 16) * 16, -(-width // 16) * 16)
    resize = T.ResizeTransform(*size, height, width, Image.Resampling.BILINEAR)
    assert np.array_equal(
        images[0, :, :height, :width].transpose(1, 2, 0), resize.apply_image(image)
    )
    assert not images[0, :, height:].any()
    assert not images[0, :, :, width:].any()
    assert result.draw().shape[1] >= size[1]


def expected_panoptic(semantic):
    return semantic.astype(np.int32) * 1000 + (semantic == 2)


def test_segments_scores_and_classes(session):
    image = np.zeros((32, 64, 3), np.uint8)
    image[8:16, 10:30] = 255
    result = session(image)
    road, person = result.segments
    assert (road.name, road.is_thing, road.score) == ("road", False, None)
    assert (person.id, person.is_thing, person.area, person.box) == (
        2001,
        True,
        160,
        (10, 8, 30, 16),
    )
    assert person.score == pytest.approx(2001 / 4000)
    assert session(image[:8]).segments[0].area == 8 * 64  # and no thing, whose score is left out
    assert session.classes == METADATA.classes
    assert session.is_panoptic
    assert session.label_divisor == 1000
    assert "3 classes" in repr(session)


def test_images_of_one_size_are_a_batch(session, monkeypatch):
    images = [scene(32, 64, 0), scene(64, 32, 1), scene(32, 64, 2), scene(40, 80, 3)]
    fed = watch(session, monkeypatch)
    together = session(images)
    assert [len(feeds["images"]) for feeds in fed] == [2, 1, 1]
    for image, result in zip(images, together, strict=True):
        assert np.array_equal(result.image, image)
        assert np.array_equal(result.panoptic, session(image).panoptic)
    assert session([]) == []


def test_a_fixed_batch_is_filled_and_what_it_adds_is_dropped(session, tmp_path, monkeypatch):
    fixed = Session(write_exported(tmp_path / "a.onnx", batch=3))
    images = [scene(32, 64, seed) for seed in range(5)]
    fed = watch(fixed, monkeypatch)
    results = fixed(images)
    assert [feeds["images"].shape[0] for feeds in fed] == [3, 3]
    assert np.array_equal(fed[1]["images"][2], fed[1]["images"][0])
    for image, result in zip(images, results, strict=True):
        assert np.array_equal(result.panoptic, session(image).panoptic)


def test_larger_images_are_shrunk_to_fixed_sizes_which_is_said(tmp_path, monkeypatch):
    fixed = Session(write_exported(tmp_path / "a.onnx", height=32, width=48))
    fed = watch(fixed, monkeypatch)
    wide, narrow = fixed([scene(64, 128), scene(64, 64)])
    assert [feeds["images"].shape[2:] for feeds in fed] == [(32, 48)] * 2
    assert [feeds["image_size"].tolist() for feeds in fed] == [[24, 48], [32, 32]]
    assert wide.semantic.shape == (64, 128)
    assert wide.notes == (
        "shown to the network at 75 % of the test size: a.onnx takes at most 32 x 48 pixels",
    )
    assert narrow.notes == ()
    as_it_is = Session(write_exported(tmp_path / "b.onnx", resize=None))
    fed = watch(as_it_is, monkeypatch)
    as_it_is(scene(50, 70))
    assert fed[0]["images"].shape == (1, 3, 64, 80)
    assert fed[0]["image_size"].tolist() == [50, 70]


def test_pixels_can_be_grouped_at_the_size_of_the_network(exported, session, monkeypatch):
    small = Session(exported, maps="network")
    fed = watch(small, monkeypatch)
    image = scene(128, 256)
    assert small(image).semantic.shape == (128, 256)
    assert fed[0]["output_size"].tolist() == [32, 64]
    same = scene(32, 64)
    assert np.array_equal(small(same).panoptic, session(same).panoptic)
    with pytest.raises(DemoError, match="maps=both is unknown"):
        Session(exported, maps="both")


def test_a_semantic_file_has_classes_alone(tmp_path):
    result = Session(write_exported(tmp_path / "a.onnx", task="semantic"))(scene(50, 80))
    assert result.panoptic is None
    assert result.segments == []
    assert result.draw().shape[2] == 3


def test_threads_and_other_processes_have_the_same_results(session):
    images = [scene(30 + 5 * n, 80, n) for n in range(8)]
    alone = [session(image).panoptic for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(session, images * 3))
    for number, result in enumerate(results):
        assert np.array_equal(result.panoptic, alone[number % 8])
    other = pickle.loads(pickle.dumps(session))
    assert other.path == session.path
    assert np.array_equal(other(images[0]).panoptic, alone[0])


def test_providers_and_threads(exported):
    assert Session(exported).providers[-1] == "CPUExecutionProvider"
    one = Session(exported, providers=["CPUExecutionProvider"], threads=1)
    assert one.providers == ["CPUExecutionProvider"]
    assert one._session.get_session_options().intra_op_num_threads == 1
    with pytest.raises(DemoError, match=r"no TPUExecutionProvider, but .*CPUExecutionProvider"):
        Session(exported, providers=["TPUExecutionProvider"])
    with pytest.raises(DemoError, match="no empty list"):
        Session(exported, providers=[])
    for threads in (0, -1, "2"):
        with pytest.raises(DemoError, match=f"threads={threads}: give a whole number from 1"):
            Session(exported, threads=threads)


def one_error(path, match):
    with pytest.raises(WeightsError, match=match) as error:
        Session(path)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_are_one_error(exported, tmp_path, monkeypatch):
    one_error(tmp_path / "none.onnx", r"none\.onnx: there is no such file")
    one_error(exported.with_name("Model.onnx"), r"there is .*model\.onnx")
    one_error(tmp_path, "there is no such file")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "torn.onnx").write_bytes(exported.read_bytes()[:-300])
    for name in ("text.onnx", "torn.onnx"):
        one_error(tmp_path / name, f"{name} is no ONNX file that onnxruntime .* can run")
    one_error(tmp_path / "empty.onnx", "empty.onnx (is no ONNX file|has no panoptic_dl metadata)")
    others = write_exported(tmp_path / "others.onnx", text="")
    one_error(others, r"others\.onnx has no panoptic_dl metadata: export it with mode=export")
    one_error(write_exported(tmp_path / "b.onnx", format=2), "of version 2 of the format")
    one_error(write_exported(tmp_path / "c.onnx", text="{"), "damaged panoptic_dl metadata")
    raw = write_exported(tmp_path / "d.onnx", postprocess=False)
    one_error(raw, "has no post-processing inside.*export.postprocess=true")
    other = write_exported(tmp_path / "e.onnx", task="semantic", text=METADATA.to_json())
    one_error(other, "is another graph than its panoptic_dl metadata say")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    one_error(exported, r"needs onnxruntime .*: pip install 'panoptic-dl\[runtime\]'")


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_wrong_images_are_refused_as_by_predictor(session, image):
    with pytest.raises(DemoError, match="is no image: give"):
        session(image)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_results_are_those_of_predictor(request, tmp_path, task):
    run = request.getfixturevalue(f"{task}_run").folder
    # Of random weights many centers are as good as others: one is enough to number them anew.
    words = [f"weights={run}", f"run_dir={tmp_path}", "dataset.center_threshold=0.9"]
    build(compose(["mode=export", *words, "export.check=false"]).mode, device="cpu")
    session, predictor = Session(tmp_path / "model.onnx"), Predictor.from_run(run, device="cpu")
    if task == "panoptic":
        predictor.model.center_threshold = 0.9
    for size in [(64, 128), (1, 1), (500, 1), (31, 33), (20, 3000), (300, 200)]:
        image = scene(*size)
        expected, result = predictor(image), session(image)
        assert (result.semantic == expected.semantic).mean() > 0.9999
        assert result.semantic.dtype == expected.semantic.dtype
        if task == "panoptic":
            assert (result.panoptic == expected.panoptic).mean() > 0.999
            assert [s.name for s in result.segments] == [s.name for s in expected.segments]


ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

BLOCKED = set(sys.argv[3].split(","))
sys.meta_path.insert(0, Blocked())
from panoptic_dl.runtime import Session

result = Session(sys.argv[1])(sys.argv[2])
for name in ("a.png", "b.jpg", "c.json"):
    result.save(name)
for view in ("semantic", "instances"):
    result.draw(view)
result.draw(["panoptic", "instances"], layout="side_by_side")
result._repr_png_()
print(*{name.partition(".")[0] for name in sys.modules})
"""
BLOCKED = {
    *("torch", "torchvision", "detectron2", "fvcore", "cv2", "scipy", "hydra", "omegaconf"),
    *("isal", "pycocotools", "yaml", "rich", "matplotlib", "onnx"),
}


def test_numpy_pillow_and_onnxruntime_are_all_that_is_imported(exported, session, tmp_path):
    image = np.zeros((300, 400, 3), np.uint8)
    image[50:150, 100:250] = 255
    Image.fromarray(image).save(tmp_path / "in.png")
    command = [sys.executable, "-c", ALONE, str(exported), "in.png", ",".join(BLOCKED)]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"numpy", "PIL", "onnxruntime"} <= loaded
    assert not loaded & BLOCKED
    expected = session(image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected.draw())
    annotation = json.loads((tmp_path / "c.json").read_text())["annotations"][0]
    infos = annotation["segments_info"]
    assert [info["category_id"] for info in infos] == [7, 23, 24]  # the edge is in between
    assert [info["area"] for info in infos] == [segment.area for segment in expected.segments]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "c" / "c.png")), expected.to_coco()[1])
