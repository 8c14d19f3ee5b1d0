"""Runs that an earlier version left: they are evaluated, resumed, predicted with and reported.

`tests/saved_runs/README.md` says how they were made. What their configs call by dotted name has
moved since; `panoptic_dl.config.builder.MOVED` has the present names.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from panoptic_dl import Predictor
from panoptic_dl.config import builder
from panoptic_dl.core.run_folder import RESOLVED
from tests.runs import ROOT, in_process, run

SAVED = Path(__file__).parents[1] / "saved_runs"
SWEPT = "toy_cityscapes_semantic_hrnet_tiny"


@pytest.fixture
def runs(tmp_path):
    """A copy of the folders, which may be written to."""
    return Path(shutil.copytree(SAVED, tmp_path / "saved_runs"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """The override that names where the runs' toy dataset is drawn."""
    return f"dataset.root.root={tmp_path_factory.getbasetemp().parent / 'saved_runs_toy'}"


def overrides_of(folder, *without):
    lines = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    left_out = ("run_dir", "sweep_dir", "weights", *without)
    return [line for line in lines if line.partition("=")[0] not in left_out]


def targets_of(node):
    """Every `_target_` of ours in a config."""
    if isinstance(node, dict):
        name = node.get("_target_")
        yield from [name] if isinstance(name, str) and name.startswith("panoptic_dl") else []
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets_of(item)


@pytest.mark.parametrize("folder", sorted(SAVED.glob("**/.hydra")), ids=lambda f: f.parent.name)
def test_every_target_of_a_saved_config_is_found(folder):
    saved = OmegaConf.to_container(OmegaConf.load(folder / Path(RESOLVED).name))
    targets = set(targets_of(saved))
    assert len(targets) > 10
    for target in targets:
        assert callable(builder.find_target(target)), target


def test_a_finished_run_is_evaluated_to_its_metrics(runs, drawn, tmp_path):
    finished = runs / "finished"
    options = [*overrides_of(finished), drawn, "logger=none", "mode=eval", f"weights={finished}"]
    results = in_process(tmp_path / "eval", *options)
    before = json.loads((SAVED / "finished_evaluated.json").read_text())["metrics"]
    assert results["metrics"] == pytest.approx(before, abs=0.5)  # another CPU, another tie


def test_an_interrupted_run_goes_on_with_the_losses_it_would_have_had(runs, drawn):
    folder = runs / "interrupted"
    in_process(folder, *overrides_of(folder), drawn, "logger=none", "resume=true")
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    losses = {str(line["iteration"]): line["total_loss"] for line in lines if "total_loss" in line}
    expected = json.loads((SAVED / "interrupted_resumed.json").read_text())["total_loss"]
    assert list(expected) == [str(number) for number in range(13, 40)]
    # To the last bit on one kind of CPU; another rounds otherwise.
    assert {key: losses[key] for key in expected} == pytest.approx(expected, rel=1e-3)


def test_the_command_of_a_finished_sweep_leaves_its_rows_as_they_are(runs, drawn):
    sweep = runs / "sweep"
    options = [*overrides_of(sweep / f"{SWEPT}_conv", "head"), "train.precision=fp32"]  # as it was
    done = run("-m", "head=conv,dsconv", *options, drawn, f"sweep_dir={sweep}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already, left as it is") == 2


@pytest.mark.parametrize(
    "name", ["finished", "interrupted", f"sweep/{SWEPT}_conv", f"sweep/{SWEPT}_dsconv"]
)
def test_a_saved_run_predicts(name):
    image = np.full((128, 256, 3), 128, np.uint8)
    result = Predictor.from_run(SAVED / name, device="cpu")(image)
    assert result.semantic.shape == (128, 256)


def test_saved_runs_are_reported(runs, tmp_path):
    script = [sys.executable, "scripts/report.py", str(runs), "--out", str(tmp_path / "report")]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = "".join(file.read_text() for file in (tmp_path / "report").glob("*.md"))
    finished = json.loads((runs / "finished" / "results.json").read_text())["metrics"]
    assert f"{finished['PQ']:.1f}" in text
    assert "unreadable" not in done.stdout
