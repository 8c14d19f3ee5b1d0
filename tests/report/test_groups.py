"""Runs are grouped over seeds, and only over seeds."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.report.runs import group_runs, read_run, spread

from .run_folders import make_run


def runs(*folders):
    return [read_run(folder, folder.name) for folder in folders]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_mean_and_deviation_are_those_of_the_statistics_module(values):
    found = spread(values)
    assert found.count == len(values)
    assert found.mean == pytest.approx(statistics.mean(values), abs=1e-9)
    if len(values) > 1:
        assert found.deviation == pytest.approx(statistics.stdev(values), abs=1e-9)
    else:
        assert math.isnan(found.deviation)


@given(st.lists(st.floats(0, 100), max_size=4), st.integers(0, 4))
def test_an_undecided_figure_makes_the_mean_undecided(values, place):
    found = spread([*values[:place], math.nan, *values[place:]])
    assert math.isnan(found.mean)
    assert math.isnan(found.deviation)


def test_seeds_are_one_group_and_other_settings_another(tmp_path):
    made = [
        make_run(tmp_path / f"{seed}", seed=seed, metrics={"PQ": 60.0 + seed}) for seed in (2, 0, 1)
    ]
    made.append(make_run(tmp_path / "other", seed=3, settings={"optimizer": {"lr": 1}}))
    made.append(make_run(tmp_path / "row", "cityscapes_panoptic_hrnet48_conv"))
    groups = group_runs(runs(*made))
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1, 2], [3], [0]]
    figure = groups[0].figure("PQ")
    assert (figure.mean, figure.deviation, figure.count) == (61.0, 1.0, 3)
    assert groups[0].figure("AP") is None


def test_unfinished_seeds_do_not_count(tmp_path):
    done = make_run(tmp_path / "a", seed=0, metrics={"PQ": 60.0})
    failed = make_run(tmp_path / "b", seed=1, status="failed", metrics={"PQ": 1.0})
    (group,) = group_runs(runs(failed, done))
    assert group.figure("PQ").mean == 60.0
    assert group.first.label == "a"


def test_a_figure_that_one_seed_lacks_is_missing(tmp_path):
    one = make_run(tmp_path / "a", seed=0, metrics={"PQ": 60.0, "AP": 30.0})
    other = make_run(tmp_path / "b", seed=1, metrics={"PQ": 62.0})
    (group,) = group_runs(runs(one, other))
    assert group.figure("AP") is None
    assert group.figure("PQ").count == 2


def attempts(day):
    return [{"started": day, "ended": day, "seconds": 1.0, "status": "finished"}]


def test_of_the_same_config_and_seed_the_newest_finished_one_stays(tmp_path):
    old = make_run(tmp_path / "old", attempts=attempts("2026-01-01"))
    new = make_run(tmp_path / "new", attempts=attempts("2026-02-01"))
    broken = make_run(tmp_path / "broken", attempts=attempts("2026-03-01"), status="failed")
    (group,) = group_runs(runs(new, broken, old))
    assert [run.label for run in group.runs] == ["new"]
    assert {run.label for run in group.replaced} == {"old", "broken"}


def test_random_seeds_are_never_the_same(tmp_path):
    made = [make_run(tmp_path / name, seed=None) for name in "ab"]
    (group,) = group_runs(runs(*made))
    assert len(group.runs) == 2


def test_runs_without_a_common_hash_stand_alone(tmp_path):
    made = [make_run(tmp_path / f"{s}", seed=s, config_hash_any_seed=None) for s in (0, 1)]
    assert len(group_runs(runs(*made))) == 2


def test_modes_without_figures_are_no_rows(tmp_path):
    assert group_runs(runs(make_run(tmp_path, mode="benchmark"))) == []
