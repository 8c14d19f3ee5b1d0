"""mode=export: every network as a file, and what the mode refuses."""

from pathlib import Path

import pytest
import torch

from panoptic_dl.config import build, compose
from panoptic_dl.core.settings import ExportSettings
from panoptic_dl.modes.benchmark import _init_statistics
from panoptic_dl.modes.export import _cases, _compare, _describe, _graph, _trace, _write

ROOT = Path(__file__).parents[2]
ROWS = sorted(file.stem for file in ROOT.glob("conf/experiment/*_*_*_*conv.yaml"))
OPTIONS = sorted(file.stem for file in ROOT.glob("lazy_configs/backbone/[a-z]*.py"))
# Their position embeddings are made for one size.
FIXED = {"dinov2_vits14", "dinov3_vits16"}


def export_random(tmp_path, *overrides, side=None, **settings):
    """Export a row with random weights whose activations are healthy, and compare the file."""
    config = compose([*overrides, f"run_dir={tmp_path}"])
    model = build(config.task.model).eval()
    chosen = ExportSettings(**settings)
    with torch.no_grad():
        stride = model.size_divisibility
        images = torch.randn((2, 3, 4 * stride, 6 * stride))
        _init_statistics(model, lambda: model.network(images))
        mapper = build(config.task.evaluation.loader.mapper)
        from panoptic_dl.core.classes import Classes

        n = config.dataset.num_classes
        classes = Classes(tuple(f"c{i}" for i in range(n)), ((0, 0, 0),) * n, ())
        metadata = _describe(model, mapper, classes, chosen)
        object.__setattr__(metadata, "resize", {"short": 6 * stride, "longest": 8 * stride})
        cases = _cases(model, mapper.image_format, metadata)
        file = tmp_path / "model.onnx"
        _write(_trace(_graph(model, mapper.image_format, chosen), metadata), file, "onnx", metadata)
        return _compare(file, "onnx", metadata, cases)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_rows(tmp_path, row):
    export_random(tmp_path, f"experiment={row}")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", OPTIONS)
def test_backbones(tmp_path, backbone):
    export_random(tmp_path, "dataset=toy_cityscapes", f"backbone={backbone}", "head=dsconv")
