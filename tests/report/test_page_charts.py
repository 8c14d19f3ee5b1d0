"""The numbers of the report's charts, and the names of runs in them."""

import json
import re

from panoptic_dl.report.formats import load_template
from panoptic_dl.report.runs import Curves, collect
from panoptic_dl.report.tables import build_tables
from scripts.report import chart, learning_curves, run_names

from .run_folders import make_run

TOY = "toy_coco_panoptic_hrnet_tiny_conv"


def curves_of(folder, curves):
    collected = collect([folder])
    tables = build_tables(collected.runs)
    names = run_names(tables, collected.runs)
    return learning_curves(tables, {run.label: curves for run in collected.runs}, 50, names)


def test_what_has_one_point_is_a_number_and_no_chart(tmp_path):
    make_run(tmp_path / "a", TOY, settings={"lr": 1})
    make_run(tmp_path / "b", TOY, settings={"lr": 2})
    steps = {"total_loss": [(10, 2.0), (20, 1.0)], "lr": [(10, 0.1)]}
    (found,) = curves_of(tmp_path, Curves(steps, {"PQ": [(20, 60.0)]}))
    assert [each["title"] for each in found["charts"]] == ["total loss"]
    (drawn,) = found["charts"]
    assert [each["name"] for each in drawn["series"]] == ["lr=1", "lr=2"]
    assert found["numbers"] == [
        ("PQ in percent", {"a": (20, 60.0), "b": (20, 60.0)}),
        ("lr", {"a": (10, 0.1), "b": (10, 0.1)}),
    ]


def test_two_evaluations_are_a_curve(tmp_path):
    make_run(tmp_path / "a", TOY)
    evaluations = {"PQ": [(10, 50.0), (20, 60.0)]}
    (found,) = curves_of(tmp_path, Curves({"lr": [(10, 0.1)]}, evaluations))
    assert [(each["title"], each["kind"]) for each in found["charts"]] == [
        ("PQ in percent", "evaluations")
    ]


def test_names_of_runs_are_unique_and_as_short_as_can_be(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"s{seed}", TOY, seed=seed)
    make_run(tmp_path / "lr", TOY, settings={"lr": 2})
    make_run(tmp_path / "conv", "cityscapes_panoptic_xception65_conv")
    make_run(tmp_path / "dsconv", "cityscapes_panoptic_xception65_dsconv")
    make_run(tmp_path / "speed", TOY, mode="benchmark")
    runs = collect([tmp_path]).runs
    names = run_names(build_tables(runs), runs)
    assert names == {
        "s0": "HRNet-tiny, conv, seed 0",
        "s1": "HRNet-tiny, conv, seed 1",
        "lr": "lr=2",
        "conv": "Xception-65 (conv)",
        "dsconv": "Xception-65 (dsconv)",
        "speed": "speed",
    }


def test_charts_hold_names_with_markup_as_text():
    evil = "<script>'\"&\x1b[2J"
    template = load_template("charts.html", autoescape=True)
    text = template.module.draw(chart(evil, [(evil, 9, [(5, 1 / 3)])], "iterations", "steps"))
    (data,) = re.findall("data-chart='(.*?)'", text)
    assert "<script>" not in text
    (line,) = json.loads(data)["series"]
    assert line["name"].startswith("<script>'")
    assert "\x1b" not in line["name"]
    assert (line["class"], line["points"]) == ("s1 again", [[5, 0.333333]])
