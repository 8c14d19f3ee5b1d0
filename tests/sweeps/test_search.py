"""hydra/sweeper=optuna, around a small task whose trials end in all ways that jobs can end."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from panoptic_dl.config import compose
from panoptic_dl.core.files import file_lock
from panoptic_dl.report.search import report_search
from tests.runs import ROOT, SMALL, run

APP = """
import json, os, signal, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(config):
    folder = Path(HydraConfig.get().runtime.output_dir)
    with (folder / "ran.txt").open("a") as file:
        file.write("once\\n")
    happens = json.loads(os.environ.get("HAPPENS", "{}")).get(folder.name[-1])
    first = len((folder / "ran.txt").read_text().split()) == 1
    if happens in ("kill", "interrupt", "save") and not first:
        happens = None
    if happens == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if happens == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
    if happens == "save":
        raise SystemExit(75)
    if happens == "exit":
        (folder / "failed.txt").write_text("ValueError: no such file\\n")
        raise SystemExit(1)
    if happens == "raise":
        raise RuntimeError("of its own\\nand more")
    if happens in ("None", "nan"):
        return {"None": None, "nan": float("nan")}[happens]
    return 60 - 40 * (config.part.a - 0.3) ** 2 - abs(config.part.b - 4) - (config.kind == "y")

if __name__ == "__main__":
    main()
"""
CONFIG = {
    "part": {"a": 0.5, "b": 2},
    "kind": "x",
    "factor": 1.0,
    "launch": {"num_gpus": 1},
    "hydra": {"sweep": {"dir": "found"}, "searchpath": [f"file://{ROOT}/conf"]},
}
SPACE = ["part.a=interval(0,1)", "part.b=int(interval(1,9))", "kind=x,y"]


@pytest.fixture
def search(tmp_path):
    """A function that starts a search of `count` trials in the folder `found`."""
    defaults = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"defaults": defaults, **CONFIG}))
    (tmp_path / "app.py").write_text(APP)

    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(count, *overrides, happens=None, space=SPACE):
        arguments = ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={count}", *space, *overrides]
        arguments.append("hydra.sweeper.report=null")  # whose imports take seconds
        return subprocess.run(
            [sys.executable, "app.py", "-m", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment | {"HAPPENS": json.dumps(happens or {})},
        )

    return start


def trials(folder, name="found"):
    return json.loads((folder / name / "search.json").read_text())["trials"]


def runs(folder):
    """How often each trial was run."""
    files = sorted((folder / "found").glob("trial_*/ran.txt"))
    return [len(file.read_text().split()) for file in files]


def test_a_search_that_was_killed_draws_what_it_would_have_drawn(tmp_path, search):
    done = search(8, "hydra.sweep.dir=whole")
    assert done.returncode == 0, done.stderr
    assert search(8, happens={5: "kill"}).returncode == -9
    done = search(8, happens={5: "kill"})
    assert done.returncode == 0, done.stderr
    assert "Going on in found: 5 of 8 trials are done, 1 to be run again" in done.stdout
    whole = trials(tmp_path, "whole")
    assert trials(tmp_path) == whole
    assert runs(tmp_path) == [1, 1, 1, 1, 1, 2, 1, 1]

    again = search(8)  # nothing to do
    assert again.returncode == 0
    assert runs(tmp_path) == [1, 1, 1, 1, 1, 2, 1, 1]
    more = search(9, "launch.num_gpus=2")  # another machine, as far as figures go the same search
    assert more.returncode == 0, more.stderr
    assert [t["value"] for t in trials(tmp_path)[:8]] == [t["value"] for t in whole]
    assert runs(tmp_path)[8:] == [1]


def test_the_best_trial_is_written_as_a_command(tmp_path, search):
    done = search(6, "factor=2.0", "+sweep_dir=/somewhere")
    assert done.returncode == 0, done.stderr
    found = trials(tmp_path)
    best = max(found, key=lambda trial: trial["value"])
    saved = OmegaConf.load(tmp_path / "found" / "best.yaml")
    a, b, kind = (best["values"][key] for key in ("part.a", "part.b", "kind"))
    assert saved.value == best["value"]
    assert saved.command == f"python run.py factor=2.0 part.a={a!r} part.b={b} kind={kind}"
    assert saved.command in report_search(tmp_path / "found")
    # The first one has the config's own values; all are of the space, whole numbers whole.
    assert found[0]["values"] == {"part.a": 0.5, "part.b": 2, "kind": "x"}
    assert all(
        type(t["values"]["part.b"]) is int and 0 <= t["values"]["part.a"] <= 1 for t in found
    )
    assert {trial["values"]["kind"] for trial in found} == {"x", "y"}
    assert len({trial["values"]["part.a"] for trial in found}) == 6
    rows = json.loads((tmp_path / "found" / "sweep.json").read_text())["rows"]
    assert [row["folder"] for row in rows] == [f"trial_{i:03d}" for i in range(6)]
    assert all((tmp_path / "found" / row["folder"] / ".hydra").is_dir() for row in rows)
    assert (tmp_path / "found" / "search.png").stat().st_size > 10_000


def test_failed_trials_are_told_and_the_search_goes_on(tmp_path, search):
    done = search(6, happens={1: "exit", 2: "raise", 3: "None", 4: "nan"})
    assert done.returncode == 0, done.stderr
    assert [(t["state"], t["error"]) for t in trials(tmp_path)] == [
        ("finished", None),
        ("failed", "ValueError: no such file"),
        ("failed", "RuntimeError: of its own"),
        ("failed", "gave None in place of a figure"),
        ("failed", "its figure is nan"),
        ("finished", None),
    ]
    assert "4 failed" in report_search(tmp_path / "found")
    assert "ValueError: no such file" in (tmp_path / "found" / "search.md").read_text()
    assert search(6).returncode == 0
    assert runs(tmp_path) == [1] * 6


def test_a_search_in_vain_names_what_failed_first(tmp_path, search):
    done = search(2, happens={0: "exit", 1: "exit"})
    assert done.returncode == 1
    text = report_search(tmp_path / "found")
    assert "No trial of 2 has finished" in text
    assert "trial_000: ValueError: no such file" in text
    assert not (tmp_path / "found" / "best.yaml").exists()


@pytest.mark.parametrize("happens", ["interrupt", "save"])
def test_a_search_that_is_stopped_says_how_to_go_on(tmp_path, search, happens):
    done = search(3, happens={1: happens})
    assert done.returncode == 130, done.stderr
    assert "sweep_dir=found goes on" in done.stdout
    assert [t["state"] for t in trials(tmp_path)] == ["finished", "unfinished"]
    assert (tmp_path / "found" / "best.yaml").is_file()
    assert search(3, happens={1: happens}).returncode == 0
    assert [t["state"] for t in trials(tmp_path)] == ["finished"] * 3
    assert (tmp_path / "found" / "trial_001" / "ran.txt").read_text() == "once\nonce\n"


def test_several_trials_at_once_and_one_of_them_killed(tmp_path, search):
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = search(6, *joblib, happens={1: "exit", 3: "kill", 4: "save"})
    assert done.returncode == 130, done.stderr
    assert "Now one trial at a time" in done.stderr
    states = [t["state"] for t in trials(tmp_path)]
    assert states == ["finished", "failed", "finished", "finished", "unfinished", "finished"]
    assert search(6, *joblib).returncode == 0
    assert [t["state"] for t in trials(tmp_path)] == ["finished", "failed", *["finished"] * 4]


def test_another_search_in_the_folder_is_refused(tmp_path, search):
    assert search(1).returncode == 0
    for overrides, said in (
        (["part.a=interval(0,2)"], "another search: part.a was"),
        (["part.a=0.5"], "another search: part.a was"),
        (["factor=3.0"], "factor was 1.0 there and is 3.0 now"),
        (["hydra.sweeper.direction=minimize"], "direction was maximize there and is minimize"),
    ):
        done = search(2, *overrides)
        assert done.returncode == 1
        assert said in done.stderr
        assert "sweep_dir=FOLDER" in done.stderr
    assert runs(tmp_path) == [1]
    with file_lock(tmp_path / "found" / ".search.lock"):
        done = search(2)
    assert done.returncode == 1
    assert "is in use by process" in done.stderr
    assert "name another sweep_dir" in done.stderr
    journal = tmp_path / "found" / "journal.jsonl"
    journal.write_text("no journal\n" + journal.read_text())
    done = search(2)
    assert done.returncode == 1
    assert "journal.jsonl is damaged (JSONDecodeError: " in done.stderr


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (["part.b=interval(1,9)"], "'part.b=int(interval(1,9))' searches those"),
        pytest.param(  # imports the parts, for near names
            *(["part.c=interval(0,1)"], "Unknown key 'part.c'"), marks=pytest.mark.slow
        ),
        (["kind=x,y", "hydra.sweeper.n_jobs=0"], "n_jobs=0: a whole number from 1 on"),
    ],
)
def test_what_cannot_be_searched(tmp_path, search, space, said):
    done = search(2, space=space)
    assert done.returncode == 1
    assert said in done.stderr
    assert not runs(tmp_path)


def test_the_example_searches_keys_that_there_are():
    sweep = yaml.safe_load((ROOT / "conf/sweep/toy_search.yaml").read_text())["hydra"]["sweeper"]
    config = compose([f"experiment={sweep['params']['experiment']}"])
    for key in sweep["params"]:
        assert key == "experiment" or OmegaConf.select(config, key) is not None


def test_run_py_is_searched(tmp_path, toy):
    done = run(
        *(
            "-m",
            "hydra/sweeper=optuna",
            *SMALL,
            *toy["toy_cityscapes"],
            "evaluation.picture_count=0",
        ),
        *("optimizer.lr=tag(log,interval(1e-4,1e-1))", "hydra.sweeper.n_trials=2"),
        *("evaluation.charts=false", "evaluation.best_and_worst=0", f"hydra.sweep.dir={tmp_path}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "search.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 2
    for trial in found["trials"]:
        results = json.loads((tmp_path / trial["folder"] / "results.json").read_text())
        assert trial["value"] == results["metrics"]["PQ"]
    assert "|   trial |   PQ |" in done.stdout
