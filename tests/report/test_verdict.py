"""Verdicts on figures of runs that are held against published rows."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.report.runs import Group, read_run
from panoptic_dl.report.tables import TOLERANCE, WIDE, judge, published_rows, verdict

from .run_folders import make_run

ROWS = {row.experiment: row for row in published_rows()}
ROW = "cityscapes_panoptic_xception65_conv"
tenths = st.integers(0, 1000)


def judged(folder, row=ROW, **changes):
    return judge(Group([read_run(make_run(folder, row, **changes), "run")]), ROWS[row])


@given(own=tenths, published=tenths, tolerance=st.sampled_from((5, 15)))
def test_edges_are_exact_in_tenths(own, published, tolerance):
    found = verdict({"PQ": own / 10}, {"PQ": published / 10}, "PQ", tolerance / 10)
    difference = Fraction(own - published, 10)
    wide = Fraction(tolerance, 10)
    wanted = "below" if difference < -wide else "better" if difference > wide else "reproduced"
    assert found.word == wanted
    assert found.tolerance == tolerance / 10


@pytest.mark.parametrize(
    ("pq", "word"),
    [
        (62.04999, "below"),  # -0.55: -0.6 in tenths
        (62.0501, "reproduced"),
        (63.1499, "reproduced"),
        (63.1501, "better"),
    ],
)
def test_differences_are_rounded_as_published_figures_are(pq, word):
    assert verdict({"PQ": pq}, {"PQ": 62.6}, "PQ", TOLERANCE).word == word


@pytest.mark.parametrize("own", [{"PQ": math.nan}, {}, {"mIoU": 80.0}])
def test_without_the_main_figure_there_is_no_verdict(own):
    assert verdict(own, {"PQ": 62.6, "mIoU": 79.4}, "PQ", 0.5).text == "no verdict (PQ is n/a)"


def test_miou_can_make_a_row_below_and_never_better():
    published = {"PQ": 62.6, "mIoU": 79.4}
    assert verdict({"PQ": 62.6, "mIoU": 78.8}, published, "PQ", 0.5).text == "below (mIoU)"
    assert verdict({"PQ": 64.6, "mIoU": 78.8}, published, "PQ", 0.5).word == "below"
    assert verdict({"PQ": 62.0, "mIoU": 78.8}, published, "PQ", 0.5).text == "below (PQ and mIoU)"
    assert verdict({"PQ": 62.6, "mIoU": 90.0}, published, "PQ", 0.5).word == "reproduced"
    assert verdict({"PQ": 62.6, "mIoU": math.nan}, published, "PQ", 0.5).word == "reproduced"


def test_other_batches_iterations_and_precisions_have_a_wider_tolerance(tmp_path):
    published = {"iterations": 90_000, "batch_size": 32, "precision": "fp32"}
    figures = {"PQ": 61.4, "mIoU": 79.4}  # 1.2 below
    assert judged(tmp_path / "a", metrics=figures, train=published).text == "below"
    for key, value in (("iterations", 80_000), ("batch_size", 16), ("precision", "bf16")):
        found = judged(tmp_path / key, metrics=figures, train=published | {key: value})
        assert (found.text, found.tolerance) == ("reproduced", WIDE)
    lr = ["optimizer.lr=5e-4"]
    assert judged(tmp_path / "lr", metrics=figures, overrides=lr).tolerance == WIDE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overrides": ["backbone.norm=GN"]}, "other settings: backbone.norm"),
        ({"overrides": ["++dataset.crop_size=[9,9]"]}, "other settings: dataset.crop_size"),
        ({"overrides": ["train.fast_dev_run=true"]}, "trial: train.fast_dev_run=true"),
        ({"settings": {"train": {"overfit_batches": 2}}}, "trial: train.overfit_batches=2"),
        (
            {"train": {"iterations": 450, "batch_size": 32, "precision": "fp32"}},
            "trial: 0.5 % of the training",
        ),
        ({"train": {}}, "trial: 0 % of the training"),
        ({"choices": {"recipe": "mine"}}, "other recipe: mine"),
    ],
)
def test_runs_of_something_else_get_no_verdict(tmp_path, changes, reason):
    assert judged(tmp_path, **changes).text == f"no verdict ({reason})"


def test_an_evaluation_of_other_images_or_of_several_looks_gets_no_verdict(tmp_path):
    def results(**measured):
        scales = {"scales": [1.0], "flip": False} | measured.pop("looks", {})
        return {"metrics": {"PQ": 62.6}, "measured": scales, "num_images": 500} | measured

    assert judged(tmp_path / "a", results=results()).word == "reproduced"
    found = judged(tmp_path / "b", results=results(num_images=200))
    assert found.text == "no verdict (measured on 200 images, not on all 500)"
    assert "several looks" in judged(tmp_path / "c", results=results(looks={"flip": True})).text
    assert "several looks" in judged(tmp_path / "d", results=results(looks={"scales": [2]})).text


@pytest.mark.parametrize("override", ["dataset.root=/x", "dataset.cache.folder=y", "seed=3"])
def test_where_things_are_does_not_matter(tmp_path, override):
    found = judged(tmp_path, overrides=[override])
    assert (found.text, found.tolerance) == ("reproduced", TOLERANCE)


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_what_has_not_finished_is_told_as_it_stands(tmp_path, status):
    assert judged(tmp_path, status=status, metrics={}).text == status


def test_a_run_without_an_end_tells_when_it_last_wrote(tmp_path, monkeypatch):
    assert judged(tmp_path, status="running").text.startswith("killed (last line 20")
    monkeypatch.setattr("panoptic_dl.report.runs.is_running", lambda folder: True)
    assert judged(tmp_path, status="running").text.startswith("running (last line 20")


def test_evaluations_of_weights_have_the_wider_tolerance(tmp_path):
    assert judged(tmp_path, mode="eval", metrics={"PQ": 61.2}).tolerance == WIDE
