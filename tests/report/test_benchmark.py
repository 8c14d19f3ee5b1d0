"""Figures of speed as tables and pictures."""

import json

import pytest
from PIL import Image

from panoptic_dl.report.benchmark import (
    benchmark_text,
    combine_benchmarks,
    combined_table,
    summarize,
)


def result(name="row", **changes):
    stages = ("load and decode", "host to device", "network", "post-processing", "total")
    return {
        "name": name,
        "machine": "a machine",
        "image_size": [64, 96],
        "weights": None,
        "settings": {
            "batch_size": 1,
            "precision": "fp32",
            "channels_last": False,
            "compile": False,
            "fold_batch_norm": False,
            "network_only": False,
            "postprocess": "fast",
            "num_things": 50,
        },
        "stages": {stage: summarize([1.0, 2.0, 9.0], 1) for stage in stages},
        "parameters": 12_345_678,
        "GMACs": 7.5,
        "GMACs_convention": "as counted",
        "peak_device_MiB": None,
        "peak_host_MiB": 1000.0,
        "effect": None,
    } | changes


def test_summaries():
    figures = summarize([3.0, 1.0, 2.0, 10.0], batch_size=2)
    assert figures["p50"] == 2.5
    assert figures["p90"] == pytest.approx(7.9)  # linear between the two last, as numpy has it
    assert figures["mean"] == 4.0
    assert figures["images_per_s"] == 500.0
    assert summarize([5.0], 1)["p90"] == 5.0


def test_a_result_names_its_circumstances():
    effect = {
        "max_logit_difference": 0.5,
        "logit_spread": 2.0,
        "changed_classes": 0.0123,
        "changed_panoptic": None,
    }
    settings = result()["settings"] | {"precision": "bf16", "compile": True}
    text = benchmark_text(result(effect=effect, settings=settings, peak_device_MiB=77.0))
    for part in ("a machine", "bf16, compile", "12.3 M", "7.50 GMACs", "device 77 MiB", "1.23 %"):
        assert part in text
    assert "random weights" in text
    assert "random weights" not in benchmark_text(result(effect=effect, weights="w.pth"))


def test_tables_leave_out_stages_that_nothing_has():
    stages = {k: v for k, v in result()["stages"].items() if k != "post-processing"}
    assert "post-processing" not in combined_table([result(stages=stages)])
    both = combined_table([result(stages=stages), result("other")])
    assert "post-processing ms" in both
    assert "output against" not in both


def test_rows_of_a_sweep_say_what_differs():
    rows = []
    for size, batch, things in (([64, 96], 1, 50), ([64, 96], 2, 50), ([128, 96], 1, 5)):
        settings = result()["settings"] | {"batch_size": batch, "num_things": things}
        rows.append(result(image_size=size, settings=settings))
    lines = combined_table(rows).splitlines()[2:]
    options = [line.split("|")[2].strip() for line in lines]
    assert options == [
        "fp32, 64 x 96 pixels",
        "fp32, 64 x 96 pixels, batch of 2",
        "fp32, 128 x 96 pixels, 5 things",
    ]


def test_results_of_a_sweep_are_combined_in_the_order_of_its_plan(tmp_path):
    assert combine_benchmarks(tmp_path) is None
    rows = [{"folder": f"{number}_row"} for number in (0, 2, 10)]
    (tmp_path / "sweep.json").write_text(json.dumps({"rows": rows}))
    for number in (0, 2, 10):
        folder = tmp_path / f"{number}_row"
        folder.mkdir()
        (folder / "benchmark.json").write_text(json.dumps(result(f"row{number}")))
    text = combine_benchmarks(tmp_path)
    places = [text.index(f"| row{number} ") for number in (0, 2, 10)]
    assert places == sorted(places)
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert picture.height > 300
