"""`run.json` tells how a run stands, whatever ended it, and never lets one fail."""

import json
import os
import subprocess
import sys
import time

import pytest

from panoptic_dl.core import run_folder as run_state
from panoptic_dl.core.files import is_running
from panoptic_dl.core.run_folder import ExitCode, error_line, note, note_figures, recorded
from panoptic_dl.launch.session import user_errors

FACTS = {"name": "row", "mode": "train"}


def state_of(folder):
    return json.loads((folder / "run.json").read_text())


def attempt(folder, action=lambda: None, **facts):
    with recorded(str(folder), writes=True) as state, user_errors(str(folder)):
        state.begin(FACTS | facts)
        action()


def raising(error):
    def action():
        raise error

    return action


def test_a_finished_run(tmp_path):
    def work():
        assert state_of(tmp_path)["status"] == "running"
        note(str(tmp_path), environment={"devices": 4, "processes": 4})
        note_figures(str(tmp_path), {"metrics": {"PQ": 50.0, "AP": float("nan")}})
        time.sleep(0.05)

    attempt(tmp_path, work)
    state = state_of(tmp_path)
    assert state["format"] == 1
    assert (state["name"], state["status"], state["error"]) == ("row", "finished", None)
    assert state["metrics"] == {"PQ": 50.0, "AP": None}
    (only,) = state["attempts"]
    assert only["status"] == "finished"
    assert state["wall_seconds"] == only["seconds"] >= 0.05
    assert state["device_hours"] == pytest.approx(4 * only["seconds"] / 3600, abs=1e-6)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("no such thing: x=1\nsecond line"), "failed", "no such thing: x=1"),
        (FloatingPointError("a loss is NaN"), "failed", "a loss is NaN"),
        (KeyboardInterrupt(), "stopped", None),
        (SystemExit(ExitCode.SAVED), "stopped", None),
        (RuntimeError("out of memory"), "failed", "RuntimeError: out of memory"),
    ],
)
def test_a_run_that_does_not_finish(tmp_path, error, status, said):
    with pytest.raises(BaseException):  # noqa: B017, PT011
        attempt(tmp_path, raising(error))
    state = state_of(tmp_path)
    assert (state["status"], state["error"]) == (status, said)
    assert state["attempts"][-1]["status"] == status
    assert (tmp_path / "error.txt").is_file() == (status == "failed")


def test_an_old_message_is_not_that_of_a_new_failure(tmp_path):
    with pytest.raises(SystemExit):
        attempt(tmp_path, raising(ValueError("old")))
    with pytest.raises(SystemExit):
        attempt(tmp_path, raising(SystemExit(-9)))
    assert state_of(tmp_path)["error"] == "ended with exit code -9, without a message"


def test_the_message_of_a_process_that_was_started():
    text = (
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):"
        '\n  File "a.py", line 3, in f\n    g()\n    ^^^\nRuntimeError: CUDA: all gone\nmore\n'
    )
    assert error_line(text) == "RuntimeError: CUDA: all gone"


def test_attempts_add_up_and_a_killed_one_ends_with_its_log(tmp_path):
    code = (
        "import os, sys, time; from panoptic_dl.core.run_folder import recorded\n"
        f"with recorded({str(tmp_path)!r}, writes=True) as state:\n"
        "    state.begin({'name': 'row', 'mode': 'train'})\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    assert is_running(tmp_path)
    with recorded(str(tmp_path), writes=True) as second:  # while the first is under way
        second.begin(FACTS | {"name": "intruder"})
    assert state_of(tmp_path)["name"] == "row"
    assert state_of(tmp_path)["status"] == "running"
    process.kill()
    process.wait()
    assert not is_running(tmp_path)
    (tmp_path / "log.txt").touch()
    os.utime(tmp_path / "log.txt", (time.time() + 100, time.time() + 100))
    attempt(tmp_path)
    first, second = state_of(tmp_path)["attempts"]
    assert first["status"] == "killed"
    assert 95 < first["seconds"] < 125
    assert first["ended"] > first["started"]
    assert state_of(tmp_path)["wall_seconds"] == pytest.approx(first["seconds"] + second["seconds"])


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch, caplog):
    def full(target, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_state, "write_text", full)
    done = []
    attempt(tmp_path, lambda: done.append(1))
    assert done == [1]
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"attempts": 3}', '{"attempts": [1]}', '{"attempts": []}'),
        '{"status": "finished", "attempts": [{}]}',
        '{"status": "finished", "attempts": [], "metrics": {"PQ": "x"}}',
    ],
)
def test_a_damaged_record_begins_anew(tmp_path, text, caplog):
    (tmp_path / "run.json").write_text(text)
    attempt(tmp_path)
    assert state_of(tmp_path)["status"] == "finished"
    assert "is damaged" in caplog.text


def test_other_modes_leave_the_record_of_a_training_alone(tmp_path):
    attempt(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    attempt(tmp_path, mode="eval")
    assert (tmp_path / "run.json").read_bytes() == before


def test_only_one_process_writes(tmp_path):
    with recorded(str(tmp_path), writes=False) as state:
        state.begin(FACTS)
    assert list(tmp_path.iterdir()) == []
