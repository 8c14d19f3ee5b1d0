"""A sweep in one process: its rows, their seeds, and how it ends."""

import json

import pytest

from panoptic_dl.core.files import RUN_LOCK, file_lock
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


def test_a_folder_of_one_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: run_dir=FOLDER .* sweep_dir=FOLDER: give that$"):
        multirun(f"run_dir={tmp_path}", "seed=0,1")
    assert not list(tmp_path.iterdir())


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
    printed, errors = capsys.readouterr()
    assert "holds this row with other numbers: optimizer.lr" in errors
    assert "Choose another sweep_dir=FOLDER" in errors
    assert f"\n{NAME}-seed=0: {tmp_path}/{NAME}-seed=0 holds this row with other" in printed
    assert "The same command" not in printed
    assert (tmp_path / f"{NAME}-seed=0" / "run.json").read_bytes() == before
    assert not (tmp_path / f"{NAME}-seed=0" / "failed.txt").exists()
    assert states(tmp_path)[f"{NAME}-seed=3"]["status"] == "finished"
    # A part, later, does not forget the rest; nor is a row that another command trains a failure.
    listed = [row["folder"] for row in json.loads((tmp_path / "sweep.json").read_text())["rows"]]
    assert listed == [f"{NAME}-seed={seed}" for seed in (0, 2, 3)]
    (tmp_path / f"{NAME}-seed=5").mkdir()
    with file_lock(tmp_path / f"{NAME}-seed=5" / RUN_LOCK):
        sweep("sweep.seeds=[2,5]")
    printed, errors = capsys.readouterr()
    assert f"{NAME}-seed=5: another command trains this row" in printed
    assert "failed" not in printed + errors
