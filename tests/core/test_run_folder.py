"""What a run's folder holds is read, or named when it is damaged."""

import json
import os

import pytest

from panoptic_dl.core import run_folder
from panoptic_dl.core.run_folder import (
    RunState,
    error_line,
    failure,
    first_error_line,
    read_config,
    read_run,
    read_state,
    read_sweep,
    write_sweep,
)

RUN = {"format": 1, "mode": "train", "status": "finished", "attempts": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, and this version reads 1"),
        ({"status": "asleep"}, "status 'asleep' is none of running"),
        ({"status": None}, "status None is none of running"),
    ],
)
def test_a_damaged_record_is_named_by_its_key(tmp_path, caplog, change, message):
    (tmp_path / "run.json").write_text(json.dumps(RUN | change))
    with pytest.raises(ValueError, match=rf"^run\.json.*{message}"):
        read_run(tmp_path)
    assert read_state(tmp_path) == {}
    assert "is damaged and not used" in caplog.text


def test_no_record_is_none(tmp_path, caplog):
    assert read_state(tmp_path) == {}
    assert not caplog.text


def test_the_plan_of_a_sweep(tmp_path):
    experiments = {"a": ["head=conv"], "b": []}
    write_sweep(tmp_path / "table", experiments)
    assert read_sweep(tmp_path / "table") == ("table", experiments)
    (tmp_path / "table" / "sweep.json").write_text('{"rows": [{"folder": 3}]}')
    with pytest.raises(ValueError, match=r"sweep\.json: rows\[0\]: folder must be text"):
        read_sweep(tmp_path / "table")


def test_the_first_line_of_an_error(tmp_path):
    assert first_error_line(tmp_path) is None
    assert failure(tmp_path) is None
    (tmp_path / "error.txt").write_text('Traceback\n  File "a.py", line 1\nValueError: x: y\nz\n')
    assert first_error_line(tmp_path) == "x: y"
    (tmp_path / "failed.txt").write_text("x: y\n")
    assert failure(tmp_path) == "x: y"


def test_the_message_of_a_process_that_was_started():
    text = (
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):"
        '\n  File "a.py", line 3, in f\n    g()\n    ^^^\nRuntimeError: CUDA: all gone\nmore\n'
    )
    assert error_line(text) == "RuntimeError: CUDA: all gone"


def test_pipes_are_not_waited_for(tmp_path):
    for name in ("error.txt", "failed.txt"):
        os.mkfifo(tmp_path / name)
    assert failure(tmp_path) is None
    assert first_error_line(tmp_path) is None


def test_the_resolved_config(tmp_path):
    assert read_config(tmp_path) == {}
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "resolved.yaml").write_text("lr: 0.1")
    assert read_config(tmp_path) == {"lr": 0.1}


def test_yaml_runs_nothing(tmp_path):
    (tmp_path / ".hydra").mkdir()
    bad = "!!python/object/apply:os.system ['touch ran']"
    (tmp_path / ".hydra" / "resolved.yaml").write_text(bad)
    with pytest.raises(ValueError, match="no whole YAML file"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("sweep", "words"), [("s", "sweep_dir={0}"), (None, "run_dir={0}/a resume=true")]
)
def test_how_a_command_goes_on_depends_on_what_it_was(tmp_path, sweep, words):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "failed.txt").write_text("of an attempt before this one")
    state = RunState(str(tmp_path / "a"), writes=True)
    state.begin({"mode": "train", "sweep": sweep})
    assert run_folder.how_to_continue(tmp_path / "a") == words.format(tmp_path)
    assert run_folder.failure(tmp_path / "a") is None
    state.end("finished")
