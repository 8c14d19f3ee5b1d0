"""hydra/sweeper=optuna: what it draws, records, refuses, and how it goes on."""

import json

import pytest
import yaml
from omegaconf import OmegaConf

from panoptic_dl.config import compose
from panoptic_dl.core.files import file_lock
from panoptic_dl.report.search import report_search
from panoptic_dl.sweeps.optuna_sweeper import Search
from tests.runs import ROOT, SMALL, multirun
from tests.sweeps.rows import QUIET
from tests.sweeps.trials import search as search_in
from tests.sweeps.trials import times_run, trials

pytestmark = pytest.mark.thorough


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A function that searches `count` trials in the folder `found`; returns the exit code."""

    def start(count, *overrides, happens=None, **options):
        monkeypatch.setenv("HAPPENS", json.dumps(happens or {}))
        return search_in(tmp_path, count, *overrides, **options)

    return start


@pytest.fixture
def found(tmp_path):
    return tmp_path / "found"


def test_the_best_trial_is_written_as_a_command(search, found):
    assert search(6, "factor=2.0", "sweep_dir=/somewhere") == 0
    drawn = trials(found)
    best = max(drawn, key=lambda trial: trial["value"])
    saved = OmegaConf.load(found / "best.yaml")
    a, b, kind = (best["values"][key] for key in ("part.a", "part.b", "kind"))
    assert saved.value == best["value"]
    assert saved.command == f"python run.py factor=2.0 part.a={a!r} part.b={b} kind={kind}"
    assert saved.command in report_search(found)
    # The first one has the config's own values; all are of the space, whole numbers whole.
    assert drawn[0]["values"] == {"part.a": 0.5, "part.b": 2, "kind": "x"}
    assert all(
        type(t["values"]["part.b"]) is int and 0 <= t["values"]["part.a"] <= 1 for t in drawn
    )
    assert {trial["values"]["kind"] for trial in drawn} == {"x", "y"}
    assert len({trial["values"]["part.a"] for trial in drawn}) == 6
    rows = json.loads((found / "sweep.json").read_text())["rows"]
    assert [row["folder"] for row in rows] == [f"trial_{i:03d}" for i in range(6)]
    assert all((found / row["folder"] / ".hydra").is_dir() for row in rows)
    assert (found / "search.png").stat().st_size > 10_000

    before = [t["value"] for t in drawn]
    assert search(6, "factor=2.0") == 0  # nothing to do
    assert search(7, "factor=2.0", "launch.num_gpus=2") == 0  # the same search on another machine
    assert [t["value"] for t in trials(found)[:6]] == before
    assert times_run(found) == [1] * 7


def test_failed_trials_are_recorded_and_the_search_goes_on(search, found):
    happens = {1: "exit", 2: "raise", 3: "None", 4: "nan"}
    assert search(6, happens=happens) == 0
    assert [(t["state"], t["error"]) for t in trials(found)] == [
        ("finished", None),
        ("failed", "ValueError: no such file"),
        ("failed", "RuntimeError: of its own"),
        ("failed", "returned None in place of a metric"),
        ("failed", "its metric is nan"),
        ("finished", None),
    ]
    assert "4 failed" in report_search(found)
    assert "ValueError: no such file" in (found / "search.md").read_text()
    assert search(6) == 0
    assert times_run(found) == [1] * 6


def test_a_search_without_a_finished_trial_names_the_first_error(search, found):
    assert search(2, happens={0: "exit", 1: "exit"}) == 1
    text = report_search(found)
    assert "No trial of 2 has finished" in text
    assert "trial_000: ValueError: no such file" in text
    assert not (found / "best.yaml").exists()


@pytest.mark.parametrize(("happens", "code"), [("interrupt", 130), ("save", 75)])
def test_a_stopped_search_says_how_to_go_on(search, found, happens, code, capsys):
    assert search(3, happens={1: happens}) == code
    assert f"sweep_dir={found} goes on" in capsys.readouterr().out
    assert [t["state"] for t in trials(found)] == ["finished", "unfinished"]
    assert (found / "best.yaml").is_file()
    assert search(3, happens={1: happens}) == 0
    assert [t["state"] for t in trials(found)] == ["finished"] * 3
    assert times_run(found) == [1, 2, 1]


def test_another_search_in_the_folder_is_refused(search, found, capsys):
    assert search(1) == 0
    for overrides, message in (
        (["part.a=interval(0,2)"], "another search: part.a was"),
        (["part.a=0.5"], "another search: part.a was"),
        (["factor=3.0"], "factor was 1.0 there and is 3.0 now"),
        (["hydra.sweeper.direction=minimize"], "direction was maximize there and is minimize"),
    ):
        assert search(2, *overrides) == 1
        errors = capsys.readouterr().err
        assert message in errors
        assert "sweep_dir=FOLDER" in errors
    assert times_run(found) == [1]
    with file_lock(found / ".search.lock"):
        assert search(2) == 1
    errors = capsys.readouterr().err
    assert "is in use by another process" in errors
    assert "name another sweep_dir" in errors
    journal = found / "journal.jsonl"
    journal.write_text("no journal\n" + journal.read_text())
    assert search(2) == 1
    assert "journal.jsonl is damaged (JSONDecodeError: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (["part.b=interval(1,9)"], "'part.b=int(interval(1,9))' searches those"),
        (["part.c=interval(0,1)"], "Unknown key 'part.c'"),
        (["kind=x,y", "hydra.sweeper.n_jobs=0"], "n_jobs=0 must be a whole number, at least 1"),
    ],
)
def test_what_cannot_be_searched(search, found, space, message, capsys):
    assert search(2, space=space) == 1
    assert message in capsys.readouterr().err
    assert not times_run(found)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "seed=-1 must be a whole number, at least 0, or null"),
        ({"sampler": "best"}, "sampler=best is unknown; choose tpe, random"),
        ({"direction": "up"}, "direction=up is unknown; choose maximize, minimize"),
        ({"n_trials": 0}, "n_trials=0 must be a whole number, at least 1"),
    ],
)
def test_what_the_sweeper_refuses(wrong, message):
    right = {"n_trials": 2, "n_jobs": 1, "direction": "maximize", "sampler": "tpe"}
    with pytest.raises(SystemExit, match=message):
        Search(**{**right, "startup": 5, "seed": 0, "own_values_first": True, **wrong})


def test_the_example_searches_keys_that_there_are():
    sweep = yaml.safe_load((ROOT / "conf/sweep/toy_search.yaml").read_text())["hydra"]["sweeper"]
    config = compose([f"experiment={sweep['params']['experiment']}"])
    for key in sweep["params"]:
        assert key == "experiment" or OmegaConf.select(config, key) is not None


def test_runs_are_searched(tmp_path, toy, capsys):
    small = [*SMALL, *QUIET, *toy["toy_cityscapes"], "train.iterations=1"]
    rate = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
    sweep = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={tmp_path}"]
    multirun(*small, *sweep, rate)
    found = trials(tmp_path)
    assert [trial["state"] for trial in found] == ["finished"] * 2
    for trial in found:
        results = json.loads((tmp_path / trial["folder"] / "results.json").read_text())
        assert trial["value"] == results["metrics"]["PQ"]
    assert "|   trial |   PQ |" in capsys.readouterr().out
