"""The import rule: a module may import only from the layers below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "panoptic_dl"
FILES = sorted(PACKAGE.rglob("*.py"))
LEAVES = (
    *("backbones", "classes", "environment", "folder_lock", "gpus", "image_files"),
    *("postprocess", "visualize", "whole_files"),
)
MAY_IMPORT: dict[str, set[str]] = {
    **{layer: set() for layer in LEAVES},
    "config": {"folder_lock", "gpus", "whole_files"},
    "report": {"folder_lock", "image_files", "whole_files"},
    "__init__": {"demo"},  # `Predictor`, imported when it is asked for
    "weights": {"whole_files"},
    "data": {"classes", "image_files"},
    "models": {"postprocess"},
    "evaluation": {"image_files", "postprocess"},  # one fast argmax over classes for both
    "prediction_files": {"evaluation", "image_files"},
    "demo": {
        *("classes", "config", "engine", "evaluation", "image_files", "models"),
        *("prediction_files", "visualize", "weights"),
    },
    "loggers": {"report", "visualize", "whole_files"},
    "engine": {
        *("classes", "environment", "evaluation", "folder_lock", "loggers", "models"),
        *("postprocess", "prediction_files"),
        *("report", "visualize", "weights", "whole_files"),
    },
    "sweeps": {"engine", "folder_lock"},
    "doctor": {  # looks at everything; nothing looks at it
        *("data", "engine", "environment", "evaluation", "image_files", "models"),
        *("weights", "whole_files"),
    },
}


def imported(file: Path) -> list[str]:
    """Absolute dotted names of all modules that a file imports."""
    names = []
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from panoptic_dl import data` imports panoptic_dl.data
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def violations(file: Path) -> list[str]:
    layer = file.relative_to(PACKAGE).with_suffix("").parts[0]
    found = []
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top in ("lazy_configs", "run", "scripts"):
            found.append(f"{name}: the package never imports what is above it")
        elif top in ("hydra", "omegaconf") and layer != "config":
            found.append(f"{name}: only config/ knows {top}")
        elif top == "panoptic_dl":
            other = rest.split(".")[0]
            if other not in (layer, "") and other not in MAY_IMPORT[layer]:
                found.append(f"{name}: {layer} may not import {other}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_down(file):
    assert violations(file) == []


def test_every_layer_is_known():
    layers = {f.relative_to(PACKAGE).with_suffix("").parts[0] for f in FILES}
    assert layers <= set(MAY_IMPORT)


def test_the_rule_sees_relative_and_absolute_imports(tmp_path, monkeypatch):
    folder = tmp_path / "panoptic_dl" / "models"
    folder.mkdir(parents=True)
    file = folder / "bad.py"
    file.write_text(
        "from ..data import mapper\nimport omegaconf\nfrom panoptic_dl.train.train import train\n"
        "from panoptic_dl import backbones\nimport lazy_configs.head\nfrom ..postprocess import x\n"
    )
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "panoptic_dl")
    assert [v.split(":")[0] for v in violations(file)] == [
        "panoptic_dl.data.mapper",
        "omegaconf",
        "panoptic_dl.train.train.train",
        "panoptic_dl.models.backbones",
        "lazy_configs.head",
    ]


def test_the_package_and_the_configs_entrance_load_without_torch():
    import subprocess
    import sys

    code = "import sys, panoptic_dl.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
