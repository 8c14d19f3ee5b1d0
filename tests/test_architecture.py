"""explanation/architecture.md: its tree is the package, and its walks are as short as they look."""

import importlib
import pkgutil
import sys
import threading
from pathlib import Path

import pytest
import torch

import panoptic_dl
from panoptic_dl.config import build, compose
from scripts.generate_docs import PACKAGES, with_tree
from tests.runs import ROOT, SMALL, command_line


def test_the_tree_is_that_of_the_package():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    assert with_tree(text) == text, "make docs writes it anew"
    packages = {file.parent.name for file in (ROOT / "panoptic_dl").glob("*/__init__.py")}
    assert packages == set(PACKAGES)


def modules_passed(function):
    """The modules of the package whose functions are called until `function` returns."""
    for module in pkgutil.walk_packages(panoptic_dl.__path__, "panoptic_dl."):
        importlib.import_module(module.name)  # what modules call when imported does not count
    passed = set()

    def note(frame, event, _):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("panoptic_dl.") and frame.f_code.co_name[0] != "<":
            passed.add(name.removeprefix("panoptic_dl."))

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(passed)


@pytest.fixture
def config(tmp_path, toy):
    return compose([*SMALL, *toy["toy_cityscapes"], f"run_dir={tmp_path}"])


def test_a_training_image_passes_few_modules(config):
    batches, model = iter(build(config.task.train_loader)), build(config.task.model).train()
    passed = modules_passed(lambda: model(next(batches)))
    assert {"data.mapper", "data.targets", "models.panoptic_deeplab"} <= set(passed)
    assert len(passed) <= 16, passed


def test_a_validation_image_passes_few_modules(config):
    node = config.task.evaluation
    loader, model = build(node.loader), build(config.task.model).eval()
    evaluator = build(node.evaluators.panoptic_seg)()

    def evaluate():
        evaluator.reset()
        with torch.no_grad():
            for batch in loader:
                evaluator.process(batch, model(batch))
        assert "PQ" in evaluator.evaluate()["panoptic_seg"]

    passed = modules_passed(evaluate)
    assert {"core.images", "postprocess.panoptic", "evaluation.panoptic"} <= set(passed)
    assert len(passed) <= 16, passed


@pytest.mark.thorough
def test_the_first_step_is_near_the_command_line(tmp_path, toy):
    run_dir = Path(tmp_path) / "run"
    options = ["train.iterations=1", "train.eval_at_end=false", "logger=none", f"run_dir={run_dir}"]
    small = [each for each in SMALL if not each.startswith("train.iterations")]
    passed = modules_passed(lambda: command_line(*small, *toy["toy_cityscapes"], *options))
    assert {"config.composition", "launch.session", "train.trainer"} <= set(passed)
    parts = ("data.", "datasets.", "models.", "evaluation.", "predictions.", "modes.")
    spine = [name for name in passed if not name.startswith(parts)]
    assert len(spine) <= 32, spine
    assert len(passed) <= 57, passed
