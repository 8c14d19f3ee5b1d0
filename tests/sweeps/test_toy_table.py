"""A table in small: killed in the middle, gone on with, failing in one row, told at its end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ROOT, SMALL, run

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
QUIET = ["evaluation.picture_count=0", "evaluation.best_and_worst=0", "evaluation.charts=false"]
NAME = "toy_cityscapes_panoptic_hrnet_tiny_conv"
SWEEP = [text for text in SMALL if not text.startswith("backbone")] + QUIET


def sweep(folder, *arguments, toy, **options):
    data = toy["toy_cityscapes"]
    command = ["-m", f"sweep_dir={folder}", *SWEEP, *data, *arguments]
    return run(*command, env=ENVIRONMENT, timeout=500, **options)


def states(folder):
    return {f.parent.name: json.loads(f.read_text()) for f in folder.glob("*/run.json")}


def test_a_killed_table_goes_on(tmp_path, toy):
    """Two backbones, two heads, both tasks: killed when some rows are done."""
    table = ["sweep=toy", "backbone=hrnet_tiny,hrnet18", "train.iterations=2"]
    data = [text for text in toy["toy_cityscapes"] if not text.startswith("dataset=")]
    command = [sys.executable, "run.py", "-m", *table, f"sweep_dir={tmp_path}", *SWEEP, *data]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def finished():
        return {name for name, state in states(tmp_path).items() if state["status"] == "finished"}

    while len(finished()) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = finished()
    assert 3 <= len(done) < 8
    before = {name: (tmp_path / name / "run.json").read_bytes() for name in done}
    status = [sys.executable, "scripts/sweep_status.py", str(tmp_path)]
    said = subprocess.run(status, cwd=ROOT, capture_output=True, text=True).stdout
    assert f"{len(done)} finished" in said
    assert "waiting" in said

    again = run(*command[2:], env=ENVIRONMENT, timeout=500)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished already") == len(done)
    assert {name: (tmp_path / name / "run.json").read_bytes() for name in done} == before
    found = states(tmp_path)
    assert sorted(found) == sorted(
        f"toy_cityscapes_{task}_{backbone}_{head}"
        for task in ("panoptic", "semantic")
        for backbone in ("hrnet_tiny", "hrnet18")
        for head in ("conv", "dsconv")
    )
    assert {state["status"] for state in found.values()} == {"finished"}
    assert all(state["metrics"]["mIoU"] is not None for state in found.values())
    assert len({state["config_hash"] for state in found.values()}) == 8
    assert "8 finished" in again.stdout
    report = [sys.executable, "scripts/report.py", str(tmp_path), "--out", str(tmp_path / "report")]
    assert subprocess.run(report, cwd=ROOT, capture_output=True).returncode == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(name in page for name in found)
    rows = (tmp_path / "report" / "report.md").read_text()
    for backbone in ("HRNet-tiny", "HRNet-18"):
        assert rows.count(f"{backbone}, conv") == rows.count(f"{backbone}, dsconv") == 2


LAUNCHERS = [
    [],
    pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], marks=pytest.mark.slow),
    pytest.param(["hydra/launcher=local"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=["basic", "joblib", "local"])
def test_a_row_that_fails_fails_alone(tmp_path, toy, launcher):
    rows = ["backbone=hrnet_tiny", "weights=missing.pth,null", "train.iterations=1"]
    done = sweep(tmp_path, *rows, *launcher, toy=toy)
    assert done.returncode == 1, done.stdout + done.stderr
    bad, good = (f"{NAME}-weights={which}" for which in ("missing.pth", "null"))
    found = states(tmp_path)
    assert {name: state["status"] for name, state in found.items()} == {
        bad: "failed",
        good: "finished",
    }
    assert "missing.pth" in found[bad]["error"]
    assert "1 finished, 1 failed" in done.stdout
    assert f"{bad}: " in done.stdout
    assert f"{bad}/log.txt" in done.stdout


def test_seeds_and_other_numbers(tmp_path, toy):
    rows = ["backbone=hrnet_tiny", "train.iterations=1"]
    done = sweep(tmp_path, *rows, "sweep.seeds=[0,2]", toy=toy)
    assert done.returncode == 0, done.stdout + done.stderr
    found = states(tmp_path)
    name = f"{NAME}-seed="
    assert {folder: state["seed"] for folder, state in found.items()} == {
        name + "0": 0,
        name + "2": 2,
    }
    before = (tmp_path / f"{name}0" / "run.json").read_bytes()
    other = sweep(tmp_path, *rows, "sweep.seeds=[0,3]", "optimizer.lr=0.5", toy=toy)
    assert other.returncode == 1
    assert "holds this row with other numbers: optimizer.lr" in other.stderr
    assert "Choose another sweep_dir=FOLDER" in other.stderr
    assert (tmp_path / f"{name}0" / "run.json").read_bytes() == before
    assert states(tmp_path)[f"{name}3"]["status"] == "finished"
