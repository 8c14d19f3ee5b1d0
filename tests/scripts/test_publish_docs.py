"""reference/results.md is made from reference/results.json, and has the same tables as the runs."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_dl.report.formats import line_texts
from panoptic_dl.report.runs import collect
from panoptic_dl.report.tables import build_tables
from scripts import publish_docs as script
from tests.report.run_folders import make_run

ROOT = Path(__file__).parents[2]
CONV = "cityscapes_panoptic_xception65_conv"


def test_the_page_of_this_repository_is_what_its_data_give():
    file = ROOT / "docs" / "reference" / "results.json"
    text = script.results_page(script.read_records(file), script.read_benchmarks(file))
    assert (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8") == text


def test_a_record_gives_the_tables_of_its_run(tmp_path):
    make_run(tmp_path / "a", CONV, seed=0, metrics={"PQ": 62.0, "mIoU": 79.4, "AP": math.nan})
    make_run(tmp_path / "b", CONV, seed=1, metrics={"PQ": 63.0, "mIoU": 79.5, "AP": math.nan})
    other = ["backbone.norm=GN"]
    make_run(tmp_path / "c", CONV, overrides=other, settings={"backbone": {"norm": "GN"}})
    make_run(tmp_path / "d", "toy_coco_panoptic_hrnet_tiny_conv", seed=None)
    make_run(tmp_path / "e", CONV, overrides=["train.fast_dev_run=true"], settings={"x": 1})
    files = {"measured": {"predictions": "/x/y/z"}, "metrics": {"PQ": 100.0}}
    make_run(tmp_path / "f", CONV, mode="eval", results=files, overrides=["predictions=/x/y/z"])
    runs = collect([tmp_path]).runs
    records = json.loads(json.dumps(script.merged([], runs), allow_nan=False))
    assert "/x/" not in json.dumps(records)
    again = [script.as_run(record, "x") for record in records]

    def content(runs):
        tables = build_tables(runs, all_published=True)
        return sorted(
            (table.title, line.title, *line_texts(line, table), str(line.verdict))
            for table in tables
            for line in table.lines
        )

    assert content(again) == content(runs)


def test_newer_runs_replace_those_of_the_same_config_and_seed(tmp_path):
    make_run(tmp_path / "old" / "run", metrics={"PQ": 1.0})
    records = script.merged([], collect([tmp_path / "old"]).runs)
    make_run(tmp_path / "new" / "run", metrics={"PQ": 2.0})
    make_run(tmp_path / "new" / "seed", seed=1, metrics={"PQ": 3.0})
    make_run(tmp_path / "new" / "failed", seed=2, status="failed")
    records = script.merged(records, collect([tmp_path / "new"]).runs)
    assert [record["metrics"]["PQ"] for record in records] == [2.0, 3.0]


def test_what_a_network_costs_is_kept(tmp_path):
    row = "toy_coco_panoptic_hrnet_tiny_conv"
    make_run(tmp_path / "run", row, metrics={"PQ": 1.0})
    made = make_run(tmp_path / "speed", row, mode="benchmark")
    content = {"parameters": 65_000_000, "GMACs": 9.5, "image_size": [64, 96], "machine": "a CPU"}
    content |= {"stages": {"total": {"images_per_s": 4.0}}, "peak_host_MiB": 321.0}
    (made / "benchmark.json").write_text(json.dumps(content))
    script.publish(tmp_path, [tmp_path], fresh=False, check=False)
    page = " ".join((tmp_path / "results.md").read_text().split())
    assert "| HRNet-tiny, conv (1) | 1.0 | 65.0 | 9.5 | 250.0 | 321.0 |" in page
    script.publish(tmp_path, [], fresh=False, check=True)


names = st.text(st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")), min_size=1, max_size=9)


@given(st.lists(names, min_size=1, max_size=4), st.sampled_from(["", "[", "x,", "'"]))
def test_records_hold_no_paths_of_a_machine(tmp_path_factory, parts, before):
    path = "/" + "/".join(parts)
    folder = tmp_path_factory.mktemp("run")
    overrides = [f"dataset.root={before}{path}", f"weights=~{path}", "head=conv", f"x={parts[0]}/y"]
    make_run(folder, overrides=overrides, command=f"python run.py run_dir={path} a={path}")
    (run,) = collect([folder]).runs
    record = script.as_record(run)
    assert record["overrides"] == [
        f"dataset.root={before}PATH",
        "weights=PATH",
        "head=conv",
        f"x={parts[0]}/y",
    ]
    assert record["command"] == "python run.py run_dir=PATH a=PATH"


def test_the_script_adds_runs_and_checks(tmp_path, monkeypatch, capsys):
    def publish(*arguments):
        monkeypatch.setattr("sys.argv", ["publish_docs.py", *map(str, arguments)])
        script.main()
        return capsys.readouterr().err

    run = make_run(tmp_path / "run", metrics={"PQ": 62.7, "mIoU": 79.4})
    make_run(tmp_path / "running", seed=1, status="running")
    assert "running is left out: killed" in publish(tmp_path, "--docs", tmp_path)
    page = tmp_path / "results.md"
    assert "| Xception-65 (1) | 62.7 | 62.6 | +0.1 |" in " ".join(page.read_text().split())
    publish("--docs", tmp_path, "--check")
    page.write_text(page.read_text().replace("62.7", "92.7"))
    with pytest.raises(SystemExit, match="run `make results`"):
        publish("--docs", tmp_path, "--check")
    (run / "run.json").write_text("{")
    wanted = "run is left out: run.json is no whole JSON file"
    assert wanted in publish(run, "--docs", tmp_path)
    assert "62.7" in page.read_text()  # the record of before stays


@pytest.mark.parametrize("content", ["{", '{"format": 7}', '{"format": 1, "runs": [{}]}'])
def test_damaged_data_are_an_error_and_not_replaced(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"^results\.json"):
        script.publish(tmp_path, [], fresh=False, check=False)
    assert (tmp_path / "results.json").read_text() == content
