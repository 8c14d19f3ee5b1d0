"""A sweep in one process: its rows, their seeds, and how it ends."""

import json

import pytest

from tests.runs import SMALL, multirun
from tests.sweeps.rows import QUIET, states

pytestmark = pytest.mark.thorough


@pytest.fixture
def sweep(tmp_path, toy):
    """A function that runs a sweep with small rows in `tmp_path`."""
    small = [text for text in SMALL if not text.startswith("backbone")]
    rows = [*small, *QUIET, *toy["toy_cityscapes"], "backbone=hrnet_tiny", "train.iterations=1"]

    def start(*overrides):
        return multirun(f"sweep_dir={tmp_path}", *rows, *overrides)

    return start


NAME = "toy_cityscapes_panoptic_hrnet_tiny_conv"


def test_a_row_that_fails_fails_alone(tmp_path, sweep, capsys):
    with pytest.raises(SystemExit) as end:
        sweep("weights=missing.pth,null")
    assert end.value.code == 1
    bad, good = f"{NAME}-weights=missing.pth", f"{NAME}-weights=null"
    found = states(tmp_path)
    assert {name: state["status"] for name, state in found.items()} == {
        bad: "failed",
        good: "finished",
    }
    assert "missing.pth" in found[bad]["error"]
    printed = capsys.readouterr().out
    assert "1 finished, 1 failed" in printed
    assert f"{bad}: " in printed
    assert f"{bad}/log.txt" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backbone=hrnet18,hrnet_tyni"], "error: There is no backbone=hrnet_tyni. Did"),
        (["sweep.seeds=[0,0]"], "error: sweep.seeds=.0, 0.: .*each once"),
    ],
)
def test_a_mistake_in_a_row_is_one_line(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit, match=message):
        multirun(f"sweep_dir={tmp_path}", *words)
    assert "Traceback" not in capsys.readouterr().err


def test_slurm_is_refused_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^error: hydra/launcher=slurm .* hydra/launcher=local"):
        multirun(f"sweep_dir={tmp_path}", "hydra/launcher=slurm", "seed=0,1")


def test_seeds_and_other_numbers(tmp_path, sweep, capsys):
    sweep("sweep.seeds=[0,2]")
    found = states(tmp_path)
    assert {folder: state["seed"] for folder, state in found.items()} == {
        f"{NAME}-seed=0": 0,
        f"{NAME}-seed=2": 2,
    }
    listed = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert [row["folder"] for row in listed] == list(found)
    before = (tmp_path / f"{NAME}-seed=0" / "run.json").read_bytes()
    with pytest.raises(SystemExit):
        sweep("sweep.seeds=[0,3]", "optimizer.lr=0.5")
    errors = capsys.readouterr().err
    assert "holds this row with other numbers: optimizer.lr" in errors
    assert "Choose another sweep_dir=FOLDER" in errors
    assert (tmp_path / f"{NAME}-seed=0" / "run.json").read_bytes() == before
    assert states(tmp_path)[f"{NAME}-seed=3"]["status"] == "finished"
