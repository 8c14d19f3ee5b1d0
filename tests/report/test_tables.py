"""The published tables come whole, and a verdict compares a run with its published row."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.core.run_folder import write_sweep
from panoptic_dl.report.formats import line_texts, report_csv, report_latex, table_markdown
from panoptic_dl.report.runs import Group, collect, read_run
from panoptic_dl.report.tables import (
    CONF,
    TOLERANCE,
    Cell,
    _compare,
    _judge,
    build_tables,
    published_rows,
)
from scripts.report import speeds

from .run_folders import make_run

PUBLISHED = Path(__file__).parents[2] / "docs" / "tutorials" / "reproduce.md"
NASTY = "<script>&|`*_\\%$#{}^~"
ROWS = {row.row: row for row in published_rows()}
ROW = "cityscapes_panoptic_xception65_conv"
tenths = st.integers(0, 1000)


def judged(folder, row=ROW, **changes):
    return _judge(Group([read_run(make_run(folder, row, **changes), "run")]), ROWS[row])


@given(own=tenths, published=tenths, tolerance=st.sampled_from((5, 15)))
def test_edges_are_exact_in_tenths(own, published, tolerance):
    found = _compare({"PQ": own / 10}, {"PQ": published / 10}, "PQ", tolerance / 10)
    difference = Fraction(own - published, 10)
    wide = Fraction(tolerance, 10)
    wanted = "below" if difference < -wide else "better" if difference > wide else "reproduced"
    assert found.word == wanted


@pytest.mark.parametrize(
    ("pq", "word"),
    [
        (62.04999, "below"),  # -0.55: -0.6 in tenths
        (62.0501, "reproduced"),
        (63.1499, "reproduced"),
        (63.1501, "better"),
    ],
)
def test_differences_are_rounded_as_published_metrics_are(pq, word):
    assert _compare({"PQ": pq}, {"PQ": 62.6}, "PQ", TOLERANCE).word == word


@pytest.mark.parametrize("own", [{"PQ": math.nan}, {}, {"mIoU": 80.0}])
def test_without_the_main_figure_there_is_no_verdict(own):
    assert _compare(own, {"PQ": 62.6, "mIoU": 79.4}, "PQ", 0.5).text == "no verdict (PQ is n/a)"


def test_miou_can_make_a_row_below_and_never_better():
    published = {"PQ": 62.6, "mIoU": 79.4}
    assert _compare({"PQ": 62.6, "mIoU": 78.8}, published, "PQ", 0.5).text == "below (mIoU)"
    assert _compare({"PQ": 64.6, "mIoU": 78.8}, published, "PQ", 0.5).word == "below"
    assert _compare({"PQ": 62.0, "mIoU": 78.8}, published, "PQ", 0.5).text == "below (PQ and mIoU)"
    assert _compare({"PQ": 62.6, "mIoU": 90.0}, published, "PQ", 0.5).word == "reproduced"
    assert _compare({"PQ": 62.6, "mIoU": math.nan}, published, "PQ", 0.5).word == "reproduced"


def test_other_batches_iterations_and_precisions_have_a_wider_tolerance(tmp_path):
    published = {"iterations": 90_000, "batch_size": 32, "precision": "fp32"}
    metrics = {"PQ": 61.4, "mIoU": 79.4}  # 1.2 below
    assert judged(tmp_path / "a", metrics=metrics, train=published).text == "below"
    for key, value in (("iterations", 80_000), ("batch_size", 16), ("precision", "bf16")):
        found = judged(tmp_path / key, metrics=metrics, train=published | {key: value})
        assert found.text == "reproduced"
    lr = ["optimizer.lr=5e-4"]
    assert judged(tmp_path / "lr", metrics=metrics, overrides=lr).text == "reproduced"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overrides": ["backbone.norm=GN"]}, "other settings: backbone.norm"),
        ({"overrides": ["++dataset.crop_size=[9,9]"]}, "other settings: dataset.crop_size"),
        ({"choices": {"optimizer": "adam", "schedule": "cosine"}}, "other settings: schedule"),
        ({"choices": {"optimizer": "sgd", "loss": "dice"}}, "other settings: optimizer, loss"),
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


def test_an_evaluation_in_half_precision_has_the_wide_tolerance(tmp_path):
    metrics = {"PQ": 61.4, "mIoU": 79.4}
    for number, (more, word) in enumerate([({}, "below"), ({"precision": "bf16"}, "reproduced")]):
        measured = {"scales": [1.0], "flip": False} | more
        results = {"metrics": metrics, "measured": measured, "num_images": 500}
        assert judged(tmp_path / str(number), metrics=metrics, results=results).word == word


@pytest.mark.parametrize("override", ["dataset.root=/x", "dataset.cache.folder=y", "seed=3"])
def test_where_things_are_does_not_matter(tmp_path, override):
    assert judged(tmp_path / "a", overrides=[override]).text == "reproduced"
    below = {"PQ": 61.4, "mIoU": 79.4}  # by more than the tolerance of a full training
    assert judged(tmp_path / "b", overrides=[override], metrics=below).text == "below"


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_the_verdict_of_an_unfinished_run_is_its_status(tmp_path, status):
    assert judged(tmp_path, status=status, metrics={}).text == status


def test_a_run_without_an_end_has_when_it_last_wrote(tmp_path, monkeypatch):
    assert judged(tmp_path, status="running").text.startswith("killed (last line 20")
    monkeypatch.setattr("panoptic_dl.core.run_folder.is_running", lambda folder: True)
    assert judged(tmp_path, status="running").text.startswith("running (last line 20")


def test_evaluations_of_weights_have_the_wider_tolerance(tmp_path):
    assert judged(tmp_path, mode="eval", metrics={"PQ": 61.2}).text == "reproduced"


def named(tables, title):
    return next(table for table in tables if table.title == title)


def test_published_rows_are_those_of_the_tutorial():
    text = PUBLISHED.read_text()
    header = re.search(r"^\| `python run.py experiment=...` \|(.*)\|$", text, re.MULTILINE)
    names = [name.strip().replace(" ", "_") for name in header[1].split("|")]
    listed = {}
    for row, cells in re.findall(r"^\| `(\w+_(?:conv|dsconv))`[^|]*\|(.*)\|$", text, re.MULTILINE):
        values = dict(zip(names, map(str.strip, cells.split("|")), strict=True))
        listed[row] = {name: float(value) for name, value in values.items() if value}
    rows = published_rows()
    assert {row.row: row.metrics for row in rows} == listed
    assert [row.row for row in rows] == list(listed)
    assert all((CONF / "experiment" / f"{row.row}.yaml").is_file() for row in rows)
    assert len({row.table for row in rows}) == 4


def test_the_published_tables_come_whole_and_in_order(tables):
    published = [table for table in tables if table.published]
    assert [table.title for table in published] == [
        "Cityscapes, panoptic, conv",
        "Cityscapes, panoptic, dsconv",
        "COCO, panoptic, dsconv",
        "Cityscapes, semantic, conv",
    ]
    words = [[line.verdict.word for line in table.lines] for table in published]
    assert words == [
        ["reproduced", "not run", "not run"],
        ["below", "not run", "not run"],
        ["not run", "better", "reproduced", "not run"],
        ["not run", "not run", "not run"],
    ]
    assert published[2].columns == ["PQ", "SQ", "RQ", "box_AP", "mask_AP"]


def test_means_over_seeds_are_compared_with_published_metrics(tables):
    line = named(tables, "Cityscapes, panoptic, conv").lines[0]
    cell = line.cells["PQ"]
    assert cell.own.mean == pytest.approx(62.7)
    assert cell.own.deviation == pytest.approx(0.7211102550927978)  # of 62.1, 62.5, 63.5
    assert cell.difference == pytest.approx(0.1)
    assert "seeds 0, 1, 2" in line.notes


def test_recipes_of_coco_are_told_apart(tables):
    lines = {
        x.group.first.label: x for x in named(tables, "COCO, panoptic, dsconv").lines if x.group
    }
    assert lines["old"].notes == ["old recipe, that of the published metrics"]
    assert lines["new"].notes[0].startswith("corrected recipe: published metrics are of recipe=")


def test_missing_and_undecided_metrics_are_no_zeros(tables):
    table = named(tables, "Cityscapes, panoptic, dsconv")
    own, theirs, difference = 0, 1, 2
    texts = line_texts(table.lines[0], table)
    by_metric = {name: texts[3 * i : 3 * i + 3] for i, name in enumerate(table.columns)}
    assert by_metric["PQ"] == ["60.0", "61.4", "-1.4"]
    assert by_metric["SQ"] == ["n/a", "81.4", "n/a"]
    assert by_metric["AP"][own] == by_metric["AP"][difference] == ""
    assert by_metric["AP"][theirs] == "32.6"
    assert Cell(None, 1.0).difference is None


def test_other_runs_stand_apart_without_verdicts(tables):
    others = [table for table in tables if not table.published]
    assert [table.title for table in others][:2] == ["toy COCO, panoptic", f"{NASTY}, panoptic"]
    assert all(line.verdict is None for table in others for line in table.lines)
    assert named(tables, "toy COCO, panoptic").lines[0].notes == ["failed"]


def test_predictions_from_files_are_no_row_of_a_network(tmp_path):
    """Neither by the override, nor by what was measured; figures of the truth itself are 100."""
    for name, found in {
        "a": {"overrides": ["mode=eval", "predictions=/made/of/truth"]},
        "b": {"results": {"metrics": {"PQ": 99.0}, "measured": {"predictions": "of/truth"}}},
        "c": {"settings": {"predictions": "of/truth"}},
    }.items():
        assert judged(tmp_path / name, mode="eval", **found).word == "no verdict"
    make_run(tmp_path / "network", ROW, mode="eval", settings={"predictions": None}, seed=1)
    runs = [read_run(folder, folder.name) for folder in sorted(tmp_path.iterdir())]
    tables = build_tables(runs, all_published=True)
    lines = [line for table in tables if table.published for line in table.lines if line.group]
    assert [line.group.first.label for line in lines] == ["network"]
    (files,) = [table for table in tables if not table.published]
    assert files.title == "Cityscapes, panoptic, predictions from files"
    assert {(line.title, line.row) for line in files.lines} == {("files of of/truth",) * 2}


def measured_table(folder, order=("slow", "fast", "large")):
    """A sweep of three backbones, trained and measured, spelled in an order of its own."""
    numbers = {"slow": (60.0, 50e6, 2.0), "fast": (40.0, 3.25e6, 20.0), "large": (59.0, 90e6, 1.0)}
    write_sweep(folder, {f"{x}-train": [f"backbone={x}"] for x in order})
    for name in order:
        pq, parameters, rate = numbers[name]
        row, given = f"mine_panoptic_{name}_conv", [f"backbone={name}", "head=conv"]
        make_run(folder / f"{name}-train", row, metrics={"PQ": pq, "mIoU": pq}, overrides=given)
        made = make_run(
            folder / f"{name}-bench", row, mode="benchmark", overrides=["mode=benchmark", *given]
        )
        content = {"parameters": parameters, "GMACs": 10.0, "peak_host_MiB": 900.0}
        content |= {"machine": "a CPU", "stages": {"total": {"images_per_s": rate}}}
        (made / "benchmark.json").write_text(json.dumps(content))
    return collect([folder])


def test_costs_of_benchmarks_stand_beside_metrics_in_the_order_of_the_sweep(tmp_path):
    found = measured_table(tmp_path)
    (table,) = build_tables(found.runs, found.benchmarks)
    assert table.columns == ["PQ", "mIoU", "params_M", "GMACs", "ms_per_image", "peak_MiB"]
    assert [line_texts(line, table) for line in table.lines] == [
        ["**60.0**", "**60.0**", "50.0", "10.0", "500.0", "900.0"],
        ["40.0", "40.0", "**3.2**", "10.0", "**50.0**", "900.0"],
        ["59.0", "59.0", "90.0", "10.0", "1000.0", "900.0"],
    ]
    (table,) = build_tables(found.runs, found.benchmarks, columns=["ms", "params", "PQ"])
    assert table.columns == ["ms_per_image", "params_M", "PQ"]
    with pytest.raises(ValueError, match="--columns: speed is no column; choose among PQ, "):
        build_tables(found.runs, columns=["speed"])
    (drawn,) = speeds([table], found)
    (chart,) = drawn["charts"]
    assert [(each["name"], each["points"]) for each in chart["series"]] == [
        ("slow, conv", [[2.0, 60.0]]),
        ("fast, conv", [[20.0, 40.0]]),
        ("large, conv", [[1.0, 59.0]]),
    ]
    (drawn,) = speeds([table], replace(found, benchmarks=found.benchmarks[:1]))
    assert drawn["charts"] == []  # one network has no front
    (drawn,) = speeds([table], found)
    assert [title for title, _ in drawn["benchmarks"]] == [
        "fast, conv",
        "large, conv",
        "slow, conv",
    ]
    assert "textbf{60.0}" in report_latex([table])


def test_costs_are_those_of_the_same_network(tmp_path):
    for name in ("a", "b"):
        row, given = "mine_panoptic_timm_conv", ["backbone=timm", f"backbone.name={name}"]
        make_run(tmp_path / name, row, metrics={"PQ": 1.0}, overrides=given, settings={"n": name})
        made = make_run(tmp_path / f"of_{name}", row, mode="benchmark", overrides=given)
        content = {"parameters": 1e6 if name == "a" else 2e6}
        (made / "benchmark.json").write_text(json.dumps(content))
    make_run(tmp_path / "c", row, metrics={"PQ": 2.0}, overrides=[], settings={"n": "c"})
    wide = ["backbone=timm", "backbone.name=a", "head.aspp_channels=512"]
    make_run(tmp_path / "wide", row, metrics={"PQ": 2.0}, overrides=wide, settings={"n": "w"})
    data = ["backbone=timm", "backbone.name=a", "dataset.crop_size=[64,64]"]
    make_run(tmp_path / "data", row, metrics={"PQ": 2.0}, overrides=data, settings={"n": "d"})
    found = collect([tmp_path])
    (table,) = build_tables(found.runs, found.benchmarks)
    costs = {line.group.first.label: line.cells.get("params_M") for line in table.lines}
    assert costs["a"].own.mean == 1.0
    assert costs["b"].own.mean == 2.0
    assert costs["data"].own.mean == 1.0
    assert costs["c"] is costs["wide"] is None  # nobody has measured that network
    assert {line.group.first.label: line.name for line in table.lines} == {
        "a": "a, conv",
        "b": "b, conv",
        "c": "timm, conv",
        "wide": "a, conv, aspp_channels=512",
        "data": "a, conv, crop_size=[64,64]",
    }
    alone = [each for each in found.benchmarks if each["parameters"] == 1e6]
    (table,) = build_tables(found.runs, alone)
    measured = {line.group.first.label for line in table.lines if "params_M" in line.cells}
    assert measured == {"a", "data"}


def test_rows_that_were_not_run_are_shown_where_they_are_wanted(tmp_path):
    make_run(tmp_path / "run", metrics={"PQ": 62.0, "mIoU": 79.0})
    runs = collect([tmp_path]).runs
    (table,) = build_tables(runs)
    assert [line.verdict.word for line in table.lines] == ["below"]
    assert len(build_tables(runs, all_published=True)) == 4


def test_rows_of_the_same_title_say_what_differs(tmp_path):
    row = "toy_coco_panoptic_hrnet_tiny_conv"
    networks = ("a", 0.01, "BN"), ("b", 0.001, "BN"), ("c", 0.001, "GN")
    for seed, (name, lr, norm) in enumerate(networks):
        given = [f"optimizer.lr={lr}", f"backbone.norm={norm}", f"run_dir={name}", f"seed={seed}"]
        resolved = {"optimizer": {"lr": lr}, "backbone": {"norm": norm, "copy": lr}}
        changes = {"settings": resolved, "metrics": {"PQ": 1.0}, "seed": seed}
        make_run(tmp_path / name, row, overrides=given, **changes)
    make_run(tmp_path / "other", "toy_coco_panoptic_hrnet18_conv", metrics={"PQ": 1.0})
    (table,) = build_tables(collect([tmp_path]).runs)
    assert [line.name for line in table.lines] == [
        "HRNet-tiny, conv, lr=0.01, norm=BN",
        "HRNet-tiny, conv, lr=0.001, norm=BN",
        "HRNet-tiny, conv, lr=0.001, norm=GN",
        "HRNet-18, conv",
    ]
    for text in (report_latex([table]), table_markdown(table), report_csv([table])):
        assert "HRNet-tiny, conv, lr=0.001, norm=GN" in text.replace("\\allowbreak{}", "")


def test_what_tells_most_rows_apart_is_named_and_nothing_that_a_run_did_not_use(tmp_path):
    row = "toy_coco_panoptic_hrnet_tiny_conv"
    for name, lr in (("a", 0.01), ("b", 0.001), ("c", 0.002)):
        given = ["head.width=1", "head.depth=2", "head.kind=x"] if name == "a" else []
        resolved = {"head": dict(each[5:].split("=") for each in given), "optimizer": {"lr": lr}}
        overrides = [*given, f"optimizer.lr={lr}"]
        make_run(tmp_path / name, row, overrides=overrides, settings=resolved, seed=None)
    evaluated = {"weights": "outputs/b", "optimizer": {"lr": 0.1}}
    about = {"mode": "eval", "overrides": ["weights=outputs/b"], "settings": evaluated}
    make_run(tmp_path / "d", row, **about)
    (table,) = build_tables(collect([tmp_path]).runs)
    details = [line.detail for line in table.lines]
    assert details == ["lr=0.01, width=1, depth=2", "lr=0.001", "lr=0.002", "weights=b"]


def test_rows_whose_configs_differ_in_nothing_known_have_their_folders(tmp_path):
    for name in ("one/x", "two/x"):
        make_run(tmp_path / name, "mine_panoptic_net_x", config_hash_any_seed=name)
    (table,) = build_tables(collect([tmp_path]).runs)
    assert [line.detail for line in table.lines] == ["run one/x", "run two/x"]


def test_files_that_changed_between_runs_are_told_by_their_settings(tmp_path):
    for kind in ("old", "new"):
        make_run(tmp_path / kind, "mine_panoptic_net_x", settings={"head": {"kind": kind}})
    (table,) = build_tables(collect([tmp_path]).runs)
    assert [line.detail for line in table.lines] == ["kind=new", "kind=old"]


def test_every_metric_of_a_run_can_be_a_column(tmp_path):
    make_run(tmp_path, "mine_panoptic_net_x", metrics={"PQ": 1.0, "PQ_th": 2.0, "mIoU": 3.0})
    runs = collect([tmp_path]).runs
    (table,) = build_tables(runs)
    assert (table.columns, table.all_columns) == (["PQ", "mIoU"], ["PQ", "mIoU", "PQ_th"])
    (table,) = build_tables(runs, columns=["PQ"])
    assert table.columns == ["PQ"]  # it is a name, not the beginning of one
    (table,) = build_tables(runs, columns=["PQ_", "PQ"])
    assert table.columns == ["PQ_th", "PQ"]
    lines = csv.DictReader(io.StringIO(report_csv([table])))
    assert [line["metric"] for line in lines] == ["PQ", "PQ_th"]
