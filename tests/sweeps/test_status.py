"""How rows stand: each state from what its folder holds, and what the script makes of it."""

import json
import subprocess
import sys

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from panoptic_dl.core.files import RUN_LOCK, file_lock
from panoptic_dl.core.run_folder import FAILED, ExitCode
from panoptic_dl.sweeps import table
from panoptic_dl.sweeps.status import conclude, row, rows, status_text
from panoptic_dl.sweeps.table import Finished, isolate_failures, resume_in_sweep
from tests.runs import ROOT


def write(folder, status, **more):
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "format": 1,
        "mode": "train",
        "status": status,
        "config_hash": "a",
        "attempts": [{"started": "2026-01-01T00:00:00+00:00", "seconds": 3671.4}],
        "train": {"iterations": 9},
        "wall_seconds": 3671.4,
        **more,
    }
    (folder / "run.json").write_text(json.dumps(state))
    (folder / "log.txt").touch()
    return folder


def job(folder, mode=RunMode.MULTIRUN):
    """What is used of a job's `hydra` node."""
    return OmegaConf.create({"mode": mode, "runtime": {"output_dir": str(folder)}})


def plan(sweep, *names):
    sweep.mkdir(exist_ok=True)
    named = [{"folder": name, "overrides": []} for name in names]
    (sweep / "sweep.json").write_text(json.dumps({"format": 1, "name": "s", "rows": named}))


def test_every_state_is_told(tmp_path):
    plan(tmp_path, "done", "bad", "gone", "cut", "never")
    write(tmp_path / "done", "finished", metrics={"PQ": 12.34, "AP": None})
    write(tmp_path / "bad", "failed", error="no such file")
    write(tmp_path / "gone", "stopped")
    write(tmp_path / "cut", "running")
    write(tmp_path / "extra", "finished")
    line = json.dumps({"iteration": 4, "total_loss": 1.0})
    (tmp_path / "cut" / "metrics.json").write_text(line + "\n" + line[:9])
    found = {each.folder: each.status for each in rows(tmp_path)}
    assert found == {
        **{"done": "finished", "bad": "failed", "gone": "stopped", "cut": "killed"},
        **{"never": "waiting", "extra": "finished"},
    }
    text = status_text(rows(tmp_path))
    assert "2 finished, 1 failed, 1 stopped, 1 killed, 1 waiting" in text
    assert f"bad: no such file\n    {tmp_path}/bad/log.txt" in text
    assert "12.3" in text
    assert "1:01:11" in text


def test_an_experiment_is_running_as_long_as_its_process_lives(tmp_path):
    folder = write(tmp_path / "row", "running")
    with file_lock(folder / RUN_LOCK):
        assert row(folder).status == "running"
    assert row(folder).status == "killed"


@pytest.mark.parametrize(
    ("states", "well"),
    [
        (["finished", "finished"], True),
        (["finished", "failed"], False),
        (["finished", "running"], False),  # killed
        (["stopped"], True),  # asked for
    ],
)
def test_the_end_of_a_sweep(tmp_path, states, well):
    for number, state in enumerate(states):
        write(tmp_path / f"row{number}", state)
    text, went_well = conclude(tmp_path)
    assert went_well is well
    assert ("The same command goes on" in text) is (set(states) != {"finished"})


def test_jobs_without_records_have_no_table(tmp_path):
    plan(tmp_path, "a", "b")
    assert conclude(tmp_path) == (None, True)
    # Nor does what ends a sweep become a failed row.
    with pytest.raises(SystemExit), isolate_failures(job(tmp_path / "a")):
        raise SystemExit(ExitCode.SAVED)
    assert conclude(tmp_path) == (None, True)
    with isolate_failures(job(tmp_path / "a")):
        raise SystemExit(1)
    assert conclude(tmp_path)[1] is False


def test_the_script_says_what_is_wrong_with_a_folder(tmp_path):
    command = [sys.executable, "scripts/sweep_status.py", str(tmp_path / "missing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is no folder; name that of a sweep" in done.stderr
    write(tmp_path / "row", "failed", error="x")
    command[-1] = str(tmp_path)
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0] | {"log": None} == {
        **{"folder": "row", "status": "failed", "error": "x", "log": None, "iteration": None},
        **{"iterations": None, "metrics": {}, "wall_seconds": 3671.4, "attempts": 1},
    }


FACTS = {"mode": "train", "config_hash": "a"}


@pytest.fixture
def resume(monkeypatch):
    """What a job of a sweep does next: `Finished`, or the value of `resume`."""
    monkeypatch.setattr(table, "differences", lambda config, folder: ["optimizer.lr", "seed"])

    def call(folder, facts=FACTS, resume=False):
        config = OmegaConf.create({"resume": resume})
        return resume_in_sweep(config, job(folder), facts) or config.resume

    return call


def test_how_an_experiment_goes_on(tmp_path, resume):
    assert resume(tmp_path / "new") == "auto"
    finished = write(tmp_path / "finished", "finished", metrics={"PQ": 5.0, "SQ": 1.0})
    assert resume(finished) == Finished(5.0)
    stopped = write(tmp_path / "stopped", "stopped")
    assert resume(stopped) == "auto"
    assert resume(stopped, resume=True) is True
    assert resume(finished, {"mode": "eval", "config_hash": "b"}) is False
    config = OmegaConf.create({"resume": False})
    assert resume_in_sweep(config, job(finished, RunMode.RUN), FACTS) is None
    assert config.resume is False


def test_other_numbers_are_refused_once_something_would_be_lost(tmp_path, resume):
    other = FACTS | {"config_hash": "b"}
    assert resume(write(tmp_path / "early", "failed"), other) == "auto"  # nothing there
    begun = write(tmp_path / "begun", "failed")
    (begun / "last_checkpoint").write_text("model_0000001.pth")
    for folder in (begun, write(tmp_path / "finished", "finished")):
        with pytest.raises(ValueError, match=r"other numbers: optimizer.lr, seed differ\. Choose"):
            resume(folder, other)


def test_an_error_is_noted_and_goes_no_further(tmp_path, capsys):
    with isolate_failures(job(tmp_path / "row")):
        raise RuntimeError("CUDA out of memory\nand more")
    assert (tmp_path / "row" / FAILED).read_text() == "RuntimeError: CUDA out of memory\n"
    assert "this row of the sweep failed" in capsys.readouterr().err
    with isolate_failures(job(tmp_path / "row")):
        pass
    assert not (tmp_path / "row" / FAILED).exists()
