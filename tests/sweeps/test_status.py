"""The status of rows, from what their folders hold, and the script that prints it."""

import json
import os
import sys

import pytest

from panoptic_dl.core.files import RUN_LOCK, file_lock
from panoptic_dl.core.run_folder import FAILED
from panoptic_dl.report.runs import collect
from panoptic_dl.sweeps.status import _row, conclude, rows, status_text
from scripts import sweep_status
from tests.sweeps.rows import write_run


def plan(sweep, *names):
    sweep.mkdir(exist_ok=True)
    named = [{"folder": name, "overrides": []} for name in names]
    (sweep / "sweep.json").write_text(json.dumps({"format": 1, "name": "s", "rows": named}))


def test_every_status_is_shown(tmp_path):
    plan(tmp_path, "done", "bad", "gone", "cut", "never")
    write_run(tmp_path / "done", "finished", metrics={"PQ": 12.34, "AP": None})
    write_run(tmp_path / "bad", "failed", error="no such file")
    write_run(tmp_path / "gone", "stopped")
    write_run(tmp_path / "cut", "running")
    write_run(tmp_path / "extra", "finished")
    line = json.dumps({"iteration": 4, "total_loss": 1.0})
    (tmp_path / "cut" / "metrics.json").write_text(line + "\n" + line[:9])
    found = {each["folder"]: each["status"] for each in rows(tmp_path)}
    assert found == {
        **{"done": "finished", "bad": "failed", "gone": "stopped", "cut": "killed"},
        **{"never": "waiting", "extra": "finished"},
    }
    text = status_text(rows(tmp_path))
    assert "2 finished, 1 failed, 1 stopped, 1 killed, 1 waiting" in text
    assert f"bad: no such file\n    {tmp_path}/bad/log.txt" in text
    assert "12.3" in text
    assert "1 h 01 min" in text


def test_an_experiment_is_running_as_long_as_its_process_lives(tmp_path):
    folder = write_run(tmp_path / "row", "running")
    with file_lock(folder / RUN_LOCK):
        assert _row(folder.parent, folder.name)["status"] == "running"
    assert _row(folder.parent, folder.name)["status"] == "killed"


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
        write_run(tmp_path / f"row{number}", state)
    text, went_well = conclude(tmp_path)
    assert went_well is well
    assert ("The same command goes on" in text) is (set(states) != {"finished"})


def test_rows_of_other_commands_are_shown_and_not_judged(tmp_path):
    plan(tmp_path, "mine", "theirs", "later")
    write_run(tmp_path / "mine", "finished")
    write_run(tmp_path / "theirs", "failed", error="x")
    text, went_well = conclude(tmp_path, ["mine"])
    assert went_well
    assert "goes on" not in text
    assert "Not finished, and for the commands that had them: 2 other rows." in text
    text, went_well = conclude(tmp_path, ["theirs"], "The same command with sweep_dir=X")
    assert not went_well
    assert "The same command with sweep_dir=X goes on" in text
    with file_lock(write_run(tmp_path / "mine", "running") / RUN_LOCK):
        text, went_well = conclude(tmp_path, ["mine"])
    assert went_well
    assert "Another command trains the rows that are running." in text


def test_status_and_report_read_one_record(tmp_path):
    plan(tmp_path, "finished", "running", "killed", "stopped", "gone")
    for name in ("finished", "running", "killed", "stopped"):
        write_run(tmp_path / name, name.replace("killed", "running"), row="r", error=None)
    for name in ("finished", "running", "killed", "gone"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / FAILED).write_text("out of memory\n")
    with file_lock(tmp_path / "running" / RUN_LOCK):
        found = {row["folder"]: (row["status"], row["error"]) for row in rows(tmp_path)}
        report = collect([tmp_path])
    assert found == {
        "finished": ("finished", None),
        "running": ("running", None),
        "killed": ("failed", "out of memory"),
        "stopped": ("stopped", None),
        "gone": ("failed", "out of memory"),
    }
    there = {run.label: (run.status, run.error or None) for run in report.runs}
    assert there | {label: ("failed", why) for label, why in report.failed} == found


def test_jobs_without_records_have_no_table(tmp_path):
    plan(tmp_path, "a", "b")
    assert conclude(tmp_path) == (None, True)


def test_the_script(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweep_status.py", *map(str, arguments)])
        return sweep_status.main(), capsys.readouterr()

    with pytest.raises(SystemExit, match=r"^error: .*is no folder; name that of a sweep"):
        call(tmp_path / "missing")
    write_run(tmp_path / "row", "failed", error="x")
    code, printed = call(tmp_path, "--json")
    assert code == 1
    assert json.loads(printed.out)[0] | {"log": None} == {
        **{"folder": "row", "status": "failed", "error": "x", "log": None, "iteration": None},
        **{"iterations": None, "metrics": {}, "wall_seconds": 3671.4, "attempts": 1},
    }


def test_hostile_records_are_one_line_each_and_lead_nowhere(tmp_path, caplog, capsys, monkeypatch):
    write_run(tmp_path / "sweep" / "row\x1b[2J", "finished", metrics={"PQ": 10**400})
    (tmp_path / "sweep" / "row\x1b[2J" / "metrics.json").write_text("[" * 10**5 + "\n")
    write_run(tmp_path / "sweep" / "two", "failed", error="no\x1b[2J")
    (tmp_path / "sweep" / "two" / "metrics.json").write_text('{"iteration": 1e400}\n')
    os.mkfifo(write_run(tmp_path / "sweep" / "three", "finished") / "metrics.json")
    write_run(tmp_path / "outside", "finished", metrics={"PQ": 1.0})
    plan(tmp_path / "sweep", "../outside")
    monkeypatch.setattr(sys, "argv", ["sweep_status.py", str(tmp_path / "sweep")])
    assert sweep_status.main() == 1
    assert "../outside is no folder of the sweep; its plan is not used" in caplog.text
    shown = capsys.readouterr().out
    assert "row?[2J" in shown
    assert "outside" not in shown
    assert "\x1b" not in shown
