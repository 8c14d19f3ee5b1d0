"""Sweeps and searches that are killed, and rows in processes of their own."""

import json
import signal
import subprocess
import sys
import time

import pytest

from panoptic_dl.sweeps.status import rows, status_text
from scripts.report import make_report
from tests.runs import ENVIRONMENT, ROOT, SMALL, multirun, run
from tests.sweeps.rows import QUIET, states
from tests.sweeps.trials import search, times_run, trials

NAME = "toy_cityscapes_panoptic_hrnet_tiny_conv"
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def test_a_killed_table_goes_on(tmp_path, toy, capsys):
    """One network, both tasks: killed when a row is done, started again in this process."""
    table = ["sweep=toy", *SMALL, "head=conv", *QUIET, f"sweep_dir={tmp_path}"]
    data = [text for text in toy["toy_cityscapes"] if not text.startswith("dataset=")]
    table += [*data, "train.iterations=1"]
    process = subprocess.Popen(
        [sys.executable, "run.py", "-m", *table],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def finished():
        return {name for name, state in states(tmp_path).items() if state["status"] == "finished"}

    while not finished() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = finished()
    assert len(done) == 1
    before = {name: (tmp_path / name / "run.json").read_bytes() for name in done}
    assert "1 finished" in status_text(rows(tmp_path))

    multirun(*table)
    printed = capsys.readouterr().out
    assert printed.count("finished already") == 1
    assert "2 finished" in printed
    assert {name: (tmp_path / name / "run.json").read_bytes() for name in done} == before
    found = states(tmp_path)
    assert sorted(found) == [NAME, NAME.replace("panoptic", "semantic")]
    assert {state["status"] for state in found.values()} == {"finished"}
    assert all(state["metrics"]["mIoU"] is not None for state in found.values())
    assert len({state["config_hash"] for state in found.values()}) == 2
    markdown, _, _ = make_report([tmp_path], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(name in page for name in found)
    assert markdown.count("HRNet-tiny, conv") == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [JOBLIB, ["hydra/launcher=local"]], ids=["joblib", "local"])
def test_a_row_that_fails_in_its_own_process_fails_alone(tmp_path, toy, launcher):
    rows = ["backbone=hrnet_tiny", "weights=missing.pth,null", "train.iterations=1"]
    words = ["-m", f"sweep_dir={tmp_path}", *SMALL[1:], *QUIET, *toy["toy_cityscapes"]]
    done = run(*words, *rows, *launcher, timeout=500)
    assert done.returncode == 1, done.stdout + done.stderr
    bad, good = (f"{NAME}-weights={which}" for which in ("missing.pth", "null"))
    found = states(tmp_path)
    assert {name: state["status"] for name, state in found.items()} == {
        bad: "failed",
        good: "finished",
    }
    assert "missing.pth" in found[bad]["error"]
    assert "1 finished, 1 failed" in done.stdout


def search_alone(folder, count, *overrides, happens):
    command = [sys.executable, "-m", "tests.sweeps.trials", str(folder), str(count), *overrides]
    environment = ENVIRONMENT | {"HAPPENS": json.dumps(happens)}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=500
    )


def test_a_search_that_was_killed_draws_what_it_would_have_drawn(tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    assert search(whole, 8) == 0
    happens = {"5": "kill"}
    assert search_alone(cut, 8, happens=happens).returncode == -signal.SIGKILL
    monkeypatch.setenv("HAPPENS", json.dumps(happens))
    assert search(cut, 8) == 0
    assert "5 of 8 trials are done, 1 to be run again" in capsys.readouterr().out
    assert trials(cut / "found") == trials(whole / "found")
    assert times_run(cut / "found") == [1, 1, 1, 1, 1, 2, 1, 1]


def test_several_trials_at_once_and_one_of_them_killed(tmp_path, monkeypatch):
    happens = {"1": "exit", "3": "kill", "4": "save"}
    done = search_alone(tmp_path, 6, *JOBLIB, happens=happens)
    assert done.returncode == 75, done.stderr
    assert "Trial 3 failed: its process was ended by SIGKILL" in done.stderr
    states = [t["state"] for t in trials(tmp_path / "found")]
    assert states == ["finished", "failed", "finished", "failed", "unfinished", "unfinished"]
    monkeypatch.setenv("HAPPENS", "{}")
    assert search(tmp_path, 6) == 0
    states = [t["state"] for t in trials(tmp_path / "found")]
    assert states == ["finished", "failed", "finished", "failed", "finished", "finished"]
