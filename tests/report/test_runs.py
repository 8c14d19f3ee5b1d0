"""Runs below folders are found or listed with a reason, and grouped over seeds, and only seeds."""

import json
import math
import os
import statistics
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.core.run_folder import MLFLOW_ARTIFACTS
from panoptic_dl.report.runs import Spread, collect, group_runs, read_curves, read_run, thinned
from scripts.report import make_report

from .run_folders import make_run


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    make_run(tmp_path / "a" / "b" / "run")
    make_run(tmp_path / "other")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = collect([tmp_path, tmp_path / "a", tmp_path])
    assert sorted(run.label for run in found.runs) == [
        f"{tmp_path.name}/{name}" for name in ("a/b/run", "other")
    ]


def test_the_copy_of_run_json_in_mlflow_s_artifacts_is_no_run(tmp_path):
    make_run(tmp_path / "mine")
    make_run(tmp_path / MLFLOW_ARTIFACTS / "0123" / "artifacts", status="running")
    assert [run.label for run in collect([tmp_path]).runs] == ["mine"]


def test_a_run_folder_itself_can_be_named(tmp_path):
    (run,) = collect([make_run(tmp_path / "mine")]).runs
    assert run.label == "mine"
    assert str(tmp_path) not in run.label


def test_folders_of_the_same_name_keep_labels_apart(tmp_path):
    folders = [make_run(tmp_path / part / "run") for part in "ab"]
    assert [run.label for run in collect(folders).runs] == ["run", "run (2)"]


def test_fields_are_read(tmp_path):
    changes = {
        "status": "failed",
        "error": "out of memory\nsecond line",
        "git": None,
        "sweep": "table",
        "seed": None,
        "wall_seconds": None,
    }
    make_run(tmp_path, **changes, metrics={"PQ": 1.0})  # of an evaluation on the way
    (run,) = collect([tmp_path]).runs
    assert run.metrics == {}
    assert (run.status, run.error, run.revision, run.seed) == ("failed", "out of memory", "", None)
    assert math.isnan(run.wall_seconds)
    assert run.settings["train.batch_size"] == "32"


def test_null_metrics_are_undecided(tmp_path):
    make_run(tmp_path, metrics={"PQ": 60.0, "AP": math.nan})
    (run,) = collect([tmp_path]).runs
    assert run.metrics["PQ"] == 60.0
    assert math.isnan(run.metrics["AP"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "run.json is empty"),
        ('{"format": 1, "na', "run.json is no whole JSON file"),
        ("[1]", "run.json holds a list"),
        ("[" * 100_000, "run.json is no whole JSON file"),
        ('{"format": 2}', "run.json has format 2"),
        ('{"format": 1, "status": "asleep", "mode": "train", "row": "x"}', "status 'asleep'"),
        ('{"format": 1, "status": "failed", "mode": "train"}', "run.json: row is missing"),
        ('{"format": 1, "status": "failed", "mode": 3, "row": "x"}', "mode must be text"),
        (
            '{"format": 1, "status": "failed", "mode": "a", "row": "x", "metrics": {"PQ": "9"}}',
            "run.json: metrics: PQ must be a number",
        ),
        ("\udcff", "run.json is no whole JSON file"),
    ],
)
def test_a_damaged_run_is_named(tmp_path, content, reason):
    make_run(tmp_path / "good")
    bad = make_run(tmp_path / "bad")
    (bad / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    found = collect([tmp_path])
    assert [run.label for run in found.runs] == ["good"]
    ((label, why),) = found.unreadable
    assert label == "bad"
    assert reason in why
    assert str(tmp_path) not in why


def test_a_run_that_may_not_be_read_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "run.json").symlink_to(folder / "gone")
    ((_label, why),) = collect([tmp_path]).unreadable
    assert why == "run.json: No such file or directory"


def test_a_folder_of_before_run_json_is_named(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.json").write_text("{}")
    ((_label, why),) = collect([tmp_path]).unreadable
    assert "no run.json" in why


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        ("a: [", "no whole YAML"),
        ("just words", "holds no config"),
        ("a: &a [*a]", "recursion"),
        ("!!python/object/apply:os.system ['false']", "no whole YAML"),
    ],
)
def test_a_damaged_config_is_remarked_and_the_run_stays(tmp_path, yaml, reason):
    make_run(tmp_path)
    (tmp_path / ".hydra" / "resolved.yaml").write_text(yaml)
    (run,) = collect([tmp_path]).runs
    (remark,) = run.remarks
    assert reason in remark
    assert run.settings == {}


def test_a_config_that_repeats_itself_is_cut(tmp_path):
    make_run(tmp_path)
    lines = ["a: &a [{x: 1},{x: 1},{x: 1}]"]
    for one, other in pairwise("abcdefghij"):
        lines.append(f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]")
    (tmp_path / ".hydra" / "resolved.yaml").write_text("\n".join(lines))
    (run,) = collect([tmp_path]).runs
    assert len(run.settings) <= 20_000


def test_planned_rows_that_were_not_started_are_found(tmp_path):
    make_run(tmp_path / "done")
    rows = [{"folder": name, "overrides": [f"x={name}"]} for name in ("done", "never")]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 1, "name": "s", "rows": rows}))
    assert collect([tmp_path]).planned == [("never", ["x=never"])]
    (tmp_path / "never").mkdir()
    (tmp_path / "never" / "failed.txt").write_text("killed\n")
    found = collect([tmp_path])
    assert (found.planned, found.failed) == ([], [("never", "killed")])
    markdown, _, _ = make_report([tmp_path], tmp_path / "report")
    assert "* `never`: killed" in markdown
    assert "Failed at the start" in (tmp_path / "report" / "report.html").read_text()
    (tmp_path / "sweep.json").write_text("{")
    ((_label, why),) = collect([tmp_path]).unreadable
    assert "sweep.json" in why


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json below"):
        collect([tmp_path])
    with pytest.raises(ValueError, match="is no folder"):
        collect([tmp_path / "wrong"])


def test_curves_of_a_file_that_is_still_written(tmp_path):
    lines = [
        {"iteration": 9, "total_loss": 3.0, "lr": 0.1},
        {"iteration": 9, "PQ": 10.0},
        {"iteration": 19, "total_loss": 2.0},
        {"iteration": 19, "total_loss": 1.0},  # written again after an interruption
        {"iteration": 29, "total_loss": math.inf},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file = tmp_path / "metrics.json"
    file.write_text(text + "nonsense\n[]\n" + '{"iteration": 39, "total')
    curves = read_curves(file)
    assert curves.steps == {"total_loss": [(10, 3.0), (20, 1.0)], "lr": [(10, 0.1)]}
    assert curves.evaluations == {"PQ": [(10, 10.0)]}
    assert curves.damaged == 2
    assert read_curves(tmp_path / "none").steps == {}


def test_thinned_curves_keep_their_mean():
    points = [(i, float(i % 7)) for i in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert sum(y for _, y in few) / 100 == pytest.approx(sum(y for _, y in points) / 1000)
    assert thinned(points, 1000) == points


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path):
    make_run(tmp_path)
    (tmp_path / "results.json").unlink()
    os.mkfifo(tmp_path / "results.json")
    (run,) = collect([tmp_path]).runs
    assert run.results == {}


def test_the_folder_of_a_trial_is_listed_as_one(tmp_path):
    (tmp_path / "x" / "fast_dev_run").mkdir(parents=True)
    (tmp_path / "x" / "fast_dev_run" / "results.json").write_text("{}")
    ((label, why),) = collect([tmp_path]).unreadable
    assert (label, why) == (
        "x/fast_dev_run",
        "a trial (train.fast_dev_run=true) is no result",
    )


def test_a_folder_that_may_not_be_opened_is_named(tmp_path, monkeypatch):
    make_run(tmp_path / "good")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refused(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    ((label, why),) = collect([tmp_path]).unreadable
    assert (label, why) == ("closed", "its folder: Permission denied")


HOSTILE = {
    "name": "half \ud800 a character",
    "seed": 10**400,
    "wall_seconds": 10**400,
    "train": {"iterations": "many", "batch_size": [1], "precision": {"a": 1}},
    "environment": {"device": {"x": ["<b>"]}, "devices": "two"},
    "attempts": [{"started": None}],
    "metrics": {"PQ": math.nan, "AP": math.inf, "mIoU": 10**400},
}


def test_hostile_values_make_a_report_all_the_same(tmp_path):
    results = {"metrics": [], "measured": [1], "results": {"panoptic_seg": 3}, "dataset": {"a": 1}}
    lines = [
        {"iteration": 10**400, "total_loss": 1.0},
        {"iteration": 1, "total_loss": 1e308, "lr": 10**400},
        {"iteration": -5, "total_loss": 1.0},
        {"iteration": 5, "total_loss": 2, "l\ud800": 1.0},
    ]
    odd = tmp_path / os.fsdecode(b"odd\xff")
    make_run(odd, metrics={}, results=results, lines=lines, settings={"\ud800": 1})
    run = json.loads((odd / "run.json").read_text()) | HOSTILE
    (odd / "run.json").write_text(json.dumps(run))
    _, files, _ = make_report([tmp_path], tmp_path / "out")
    assert [file.stat().st_size > 0 for file in files] == [True] * 4


def runs_in(*folders):
    return [read_run(folder, folder.name) for folder in folders]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_mean_and_deviation_are_those_of_the_statistics_module(values):
    found = Spread.over(values)
    assert found.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    if len(values) > 1:
        assert found.deviation == pytest.approx(statistics.stdev(values), abs=1e-9)
    else:
        assert math.isnan(found.deviation)


@given(st.lists(st.floats(0, 100), max_size=4), st.integers(0, 4))
def test_an_undecided_metric_makes_the_mean_undecided(values, place):
    found = Spread.over([*values[:place], math.nan, *values[place:]])
    assert math.isnan(found.mean)
    assert math.isnan(found.deviation)


def test_seeds_are_one_group_and_other_settings_another(tmp_path):
    made = [
        make_run(tmp_path / f"{seed}", seed=seed, metrics={"PQ": 60.0 + seed}) for seed in (2, 0, 1)
    ]
    made.append(make_run(tmp_path / "other", seed=3, settings={"optimizer": {"lr": 1}}))
    made.append(make_run(tmp_path / "row", "cityscapes_panoptic_hrnet48_conv"))
    groups = group_runs(runs_in(*made))
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1, 2], [3], [0]]
    metric = groups[0].metric("PQ")
    assert (metric.mean, metric.deviation) == (61.0, 1.0)
    assert groups[0].metric("AP") is None


def test_unfinished_seeds_do_not_count(tmp_path):
    done = make_run(tmp_path / "a", seed=0, metrics={"PQ": 60.0})
    failed = make_run(tmp_path / "b", seed=1, status="failed", metrics={"PQ": 1.0})
    (group,) = group_runs(runs_in(failed, done))
    assert group.metric("PQ").mean == 60.0
    assert group.first.label == "a"


def test_a_metric_that_one_seed_lacks_is_missing(tmp_path):
    one = make_run(tmp_path / "a", seed=0, metrics={"PQ": 60.0, "AP": 30.0})
    other = make_run(tmp_path / "b", seed=1, metrics={"PQ": 62.0})
    (group,) = group_runs(runs_in(one, other))
    assert group.metric("AP") is None
    assert group.metric("PQ").mean == 61.0


def attempts(day):
    return [{"started": day, "ended": day, "seconds": 1.0, "status": "finished"}]


def test_of_the_same_config_and_seed_the_newest_finished_one_stays(tmp_path):
    old = make_run(tmp_path / "old", attempts=attempts("2026-01-01"))
    new = make_run(tmp_path / "new", attempts=attempts("2026-02-01"))
    broken = make_run(tmp_path / "broken", attempts=attempts("2026-03-01"), status="failed")
    (group,) = group_runs(runs_in(new, broken, old))
    assert [run.label for run in group.runs] == ["new"]
    assert {run.label for run in group.replaced} == {"old", "broken"}


def test_random_seeds_are_never_the_same(tmp_path):
    made = [make_run(tmp_path / name, seed=None) for name in "ab"]
    (group,) = group_runs(runs_in(*made))
    assert len(group.runs) == 2


def test_runs_without_a_common_hash_stand_alone(tmp_path):
    made = [make_run(tmp_path / f"{s}", seed=s, config_hash_any_seed=None) for s in (0, 1)]
    assert len(group_runs(runs_in(*made))) == 2


def test_modes_without_metrics_are_no_rows(tmp_path):
    assert group_runs(runs_in(make_run(tmp_path, mode="benchmark"))) == []


def test_moments_are_compared_and_shown_with_their_time_zones(tmp_path, monkeypatch):
    def at(*moments):
        return [{"started": each, "seconds": 1.0, "status": "finished"} for each in moments]

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        # 08:30 in Zurich is before 02:40 in New York.
        make_run(tmp_path, attempts=at("2026-01-01T02:40:00-05:00", "2026-01-01T08:30:00+01:00"))
        assert read_run(tmp_path, "a").moment == "2026-01-01 02:40 EST"
        make_run(tmp_path, attempts=at("0001-01-01T00:00:00", "no date"))
        assert read_run(tmp_path, "a").moment == "no date"
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
