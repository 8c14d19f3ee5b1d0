"""mode=export: files of every network and format, what they compute, and what the mode refuses."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from panoptic_dl.config import build, compose
from panoptic_dl.core.classes import Classes
from panoptic_dl.core.settings import ExportSettings
from panoptic_dl.modes.benchmark import _init_statistics
from panoptic_dl.modes.export import _cases, _compare, _describe, _shared, _trace, _write
from tests.modes.small_runs import BENCHMARK, small_coco
from tests.runtime.samples import write_exported

ROOT = Path(__file__).parents[2]
ROWS = sorted(file.stem for file in ROOT.glob("conf/experiment/*_*_*_*conv.yaml"))
OPTIONS = sorted(file.stem for file in ROOT.glob("lazy_configs/backbone/[a-z]*.py"))
# Transformers, whose position embeddings and windows are made for one size.
FIXED = {
    name: {"batch": 1, "height": 224, "width": 224}
    for name in ("dinov2_vits14", "dinov3_vits16", "swin_tiny")
}


def compare_random(tmp_path, *overrides, **settings):
    """Export a row with random weights of healthy activations, and compare its maps."""
    config = compose([*overrides, f"run_dir={tmp_path}"])
    model = build(config.task.model).eval()
    mapper = build(config.task.evaluation.loader.mapper)
    number = config.dataset.num_classes
    classes = Classes(tuple(f"class {i}" for i in range(number)), ((0, 0, 0),) * number, ())
    chosen = ExportSettings(**settings)
    with torch.no_grad():
        metadata = _describe(model, mapper, classes, chosen)
        stride = metadata.stride
        sides = metadata.height or 4 * stride, metadata.width or 6 * stride
        images = torch.randn((2, 3, *sides), generator=torch.Generator().manual_seed(0))
        _init_statistics(model, lambda: model.network(images))
        cases = _cases(model, mapper.image_format, metadata)[:2]  # not of the published size
        file = tmp_path / "model.onnx"
        _write(_trace(model, mapper.image_format, metadata), file, "onnx", metadata)
        return _compare(file, "onnx", metadata, cases)


@pytest.mark.slow
@pytest.mark.parametrize("postprocess", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_rows(tmp_path, row, postprocess):
    assert compare_random(tmp_path, f"experiment={row}", postprocess=postprocess)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", OPTIONS)
def test_backbones(tmp_path, backbone):
    settings = FIXED.get(backbone, {})
    parts = ["dataset=toy_cityscapes", f"backbone={backbone}", "head=dsconv"]
    assert compare_random(tmp_path, *parts, postprocess=False, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Overrides of a tiny network on a small dataset, whose weights give healthy activations."""
    return small_coco(tmp_path_factory.mktemp("coco"))


def run(folder, *overrides):
    return build(compose([*overrides, f"run_dir={folder}"]).mode, device="cpu")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return folder / "model.onnx", run(folder, *trained, "mode=export")


@pytest.mark.thorough
def test_a_file_and_what_it_says(exported):
    file, result = exported
    assert set(result["metrics"]) == {
        "onnxruntime panoptic",
        "onnxruntime semantic",
        "onnxruntime scores",
        "OpenVINO panoptic",
        "OpenVINO semantic",
        "OpenVINO scores",
        "MB",
    }
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}  # standard operators alone
    facts = json.loads({p.key: p.value for p in model.metadata_props}["panoptic_dl"])
    assert facts["format"] == 1
    assert facts["task"] == "panoptic"
    assert facts["resize"] == {"short": 60, "longest": 80}
    assert (facts["batch"], facts["height"], facts["width"]) == (None, None, None)
    assert facts["classes"]["names"][0] == "person"
    assert len(facts["provenance"]["sha256"]) == 64
    assert str(Path(__file__).parents[2]) not in file.read_bytes().decode("latin1")


@pytest.mark.thorough
def test_evaluation_of_the_file_is_that_of_the_weights(trained, exported, tmp_path):
    file, _ = exported
    *parts, weights = trained
    expected = run(tmp_path / "weights", *parts, weights, "mode=eval")["metrics"]
    found = run(tmp_path / "file", *parts, f"weights={file}", "mode=eval")["metrics"]
    assert found == pytest.approx(expected, abs=0.01, nan_ok=True)
    with pytest.raises(ValueError, match=r"evaluation\.flip are not in an exported file"):
        run(tmp_path, *parts, f"weights={file}", "mode=eval", "evaluation.flip=true")
    others = ["dataset=toy_cityscapes", f"weights={file}", "mode=eval"]
    with pytest.raises(ValueError, match="the dataset has other classes than weights="):
        run(tmp_path, *others)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (["export.format=pt2", "export.postprocess=false"], "model.pt2"),
        (["task=semantic", "export.batch=1", "export.height=64", "export.width=96"], "model.onnx"),
        (["export.precision=fp16", "export.postprocess=false"], "model.onnx"),
        (["dataset.image_format=BGR"], "model.onnx"),
    ],
)
def test_other_files(trained, tmp_path, settings, name):
    if "task=semantic" in settings:
        *parts, _ = trained
        model = build(compose([*parts, "task=semantic"]).task.model)
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        trained = [*parts, f"weights={tmp_path / 'weights.pth'}"]
    result = run(tmp_path, *trained, "mode=export", *settings)
    assert (tmp_path / name).stat().st_size == round(result["metrics"]["MB"] * 1e6)
    assert len(result["metrics"]) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["weights=null"], "mode=export needs weights="),
        (["export.height=100"], "takes multiples of 32 pixels, such as export.height=96"),
        (["export.format=aotinductor"], "give export.batch=, export.height= and export.width="),
        (["export.format=tflite"], "export.format=tflite is unknown; choose onnx, pt2"),
        (["export.opset=11"], "export.opset=11 must be a whole number, at least 18"),
    ],
)
def test_bad_settings(trained, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *trained, "mode=export", *settings)


def test_a_missing_extra(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.modes.export.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "panoptic-dl\[export\]"'):
        run(tmp_path, *trained, "mode=export")


def test_other_resizes_are_refused(trained, tmp_path):
    flip = "{_target_: detectron2.data.transforms.RandomFlip}"
    mapper = "task.evaluation.loader.mapper.augmentations"
    with pytest.raises(ValueError, match="does more than ResizeShortestEdge"):
        run(tmp_path, *trained, "mode=export", f"{mapper}=[{flip}]")


@pytest.mark.thorough
def test_a_file_that_differs_is_not_saved(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.modes.export._difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"by more than 0\.001: torch\.export"):
        run(tmp_path, *trained, "mode=export", "export.format=pt2", "export.postprocess=false")
    assert not (tmp_path / "model.pt2").exists()


def test_numbers_of_instances_do_not_count():
    one = np.array([[[0, 1, 1, 2, 2, 2]]])
    assert _shared(one, one * 1000 + 7) == 1
    assert _shared(one, np.array([[[0, 1, 1, 2, 2, 1]]])) == pytest.approx(5 / 6)
    assert _shared(one, one * 0) == 1  # each is in one: the other way round it is not
    assert _shared(one * 0, one) == pytest.approx(3 / 6)


@pytest.mark.thorough
def test_benchmark_of_a_file(trained, exported, tmp_path):
    file, _ = exported
    result = run(
        tmp_path,
        *trained[:-1],
        f"weights={file}",
        "mode=benchmark",
        "benchmark.iterations=1",
        "benchmark.image_size=[60,80]",
        "benchmark.num_scenes=1",
    )
    programs = result["programs"]
    expected = ["PyTorch", "PyTorch, precision=auto", "PyTorch, compiled"]
    assert list(programs) == [*expected, "onnxruntime", "OpenVINO"]
    assert all(times["p50"] > 0 for times in programs.values())
    assert json.loads((tmp_path / "benchmark.json").read_text())["programs"] == programs


@pytest.mark.parametrize(
    ("facts", "words", "message"),
    [
        ({"batch": 2}, [], "takes 2 images at once: set benchmark.batch_size=2"),
        ({"task": "semantic"}, [], "is of task=semantic, and the network to compare is not"),
        ({"height": 32, "width": 64}, [], "64 x 96 pixels: the file takes any number of at most"),
        ({}, ["benchmark.precision=bf16"], r"benchmark\.precision is of PyTorch's network alone"),
        ({}, ["benchmark.fold_batch_norm=true"], r"benchmark\.fold_batch_norm is of PyTorch's"),
    ],
)
def test_what_cannot_be_timed_beside_a_file(tmp_path, facts, words, message):
    file = write_exported(tmp_path / "model.onnx", **facts)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, *BENCHMARK, *words, f"weights={file}")
