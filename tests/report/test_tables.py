"""Tables say the same in Markdown, CSV and LaTeX, and what runs and papers say."""

import csv
import io
import math
import re
from pathlib import Path

import pytest

from panoptic_dl.report.formats import (
    escape,
    line_texts,
    report_csv,
    report_latex,
    report_markdown,
    table_markdown,
)
from panoptic_dl.report.page import tables_of
from panoptic_dl.report.runs import Planned, collect
from panoptic_dl.report.tables import Cell, published_rows

from .run_folders import make_run

README = Path(__file__).parents[2] / "README.md"
CONV, DSCONV = "cityscapes_panoptic_xception65_conv", "cityscapes_panoptic_xception65_dsconv"
COCO = "coco_panoptic_hrnet48_dsconv"
NASTY = "<script>&|`*_\\%$#{}^~"


@pytest.fixture
def collected(tmp_path):
    for seed, pq in enumerate((62.1, 62.5, 63.5)):
        make_run(tmp_path / f"seed{seed}", CONV, seed=seed, metrics={"PQ": pq, "mIoU": 79.4})
    make_run(tmp_path / "below", DSCONV, metrics={"PQ": 60.0, "SQ": math.nan, "mIoU": 79.8})
    make_run(tmp_path / "new", COCO, metrics={"PQ": 38.6})
    old = {"recipe": "coco_panoptic_old"}
    make_run(tmp_path / "old", COCO, metrics={"PQ": 37.5}, choices=old, settings={"max_size": 640})
    make_run(tmp_path / "toy", "toy_cityscapes_panoptic_hrnet_tiny_conv", metrics={"PQ": 50.0})
    make_run(tmp_path / "broken", "toy_coco_panoptic_hrnet_tiny_conv", status="failed", metrics={})
    own = {"dataset": NASTY, "task": "panoptic", "backbone": NASTY, "head": "x"}
    make_run(tmp_path / "own", "mine_panoptic_net_x", metrics={"PQ": 1.0}, choices=own)
    return collect([tmp_path])


@pytest.fixture
def tables(collected):
    return tables_of(collected)


def named(tables, title):
    return next(table for table in tables if table.title == title)


def test_published_rows_are_those_of_the_readme():
    text = README.read_text()
    header = re.search(r"^\| `python run.py experiment=...` \|(.*)\|$", text, re.MULTILINE)
    names = [name.strip().replace(" ", "_") for name in header[1].split("|")]
    readme = {}
    for row, cells in re.findall(r"^\| `(\w+_(?:conv|dsconv))`[^|]*\|(.*)\|$", text, re.MULTILINE):
        values = dict(zip(names, map(str.strip, cells.split("|")), strict=True))
        readme[row] = {name: float(value) for name, value in values.items() if value}
    rows = published_rows()
    assert {row.experiment: row.figures for row in rows} == readme
    assert all(row.experiment == row.row for row in rows)
    assert [row.experiment for row in rows] == list(readme)
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
        ["reproduced", "not run"],
        ["below", "not run"],
        ["not run", "better", "reproduced"],
        ["not run", "not run"],
    ]
    assert published[2].columns == ["PQ", "SQ", "RQ", "box_AP", "mask_AP"]


def test_means_over_seeds_stand_beside_published_figures(tables):
    line = named(tables, "Cityscapes, panoptic, conv").lines[0]
    cell = line.cells["PQ"]
    assert cell.own.mean == pytest.approx(62.7)
    assert cell.own.deviation == pytest.approx(0.7211102550927978)  # of 62.1, 62.5, 63.5
    assert cell.difference == pytest.approx(0.1)
    assert "seeds 0, 1, 2" in line.notes


def test_recipes_of_coco_are_told_apart(tables):
    lines = {x.group.label: x for x in named(tables, "COCO, panoptic, dsconv").lines if x.group}
    assert lines["old"].notes == ["old recipe, that of the published figures"]
    assert lines["new"].notes[0].startswith("corrected recipe: published figures are of recipe=")


def test_missing_and_undecided_figures_are_no_zeros(tables):
    table = named(tables, "Cityscapes, panoptic, dsconv")
    own, theirs, difference = 0, 1, 2
    texts = line_texts(table.lines[0], table)
    by_figure = {name: texts[3 * i : 3 * i + 3] for i, name in enumerate(table.columns)}
    assert by_figure["PQ"] == ["60.0", "61.4", "-1.4"]
    assert by_figure["SQ"] == ["n/a", "81.4", "n/a"]
    assert by_figure["AP"][own] == by_figure["AP"][difference] == ""
    assert by_figure["AP"][theirs] == "32.6"
    assert Cell(None, 1.0).difference is None


def test_other_runs_stand_apart_without_verdicts(tables):
    others = [table for table in tables if not table.published]
    assert [table.title for table in others][:2] == ["toy COCO, panoptic", f"{NASTY}, panoptic"]
    assert all(line.verdict is None for table in others for line in table.lines)
    assert named(tables, "toy COCO, panoptic").lines[0].notes == ["failed"]


def cells_of(markdown):
    return [
        [re.sub(r"\\(.)", r"\1", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


def test_markdown_parses_back(tables):
    for table in tables:
        heading, rule, *rows = cells_of(table_markdown(table))
        assert len(rows) == len(table.lines)
        assert all(len(row) == len(heading) == len(rule) for row in rows)
        for row, line in zip(rows, table.lines, strict=True):
            texts = line_texts(line, table)
            assert row[2 : 2 + len(texts)] == texts
            assert re.sub(r" \(\d+\)$", "", row[0]) == line.title.strip()
            assert not table.published or row[-1] == line.verdict.text


def test_markdown_names_all_that_is_no_figure(collected, tables):
    planned = [Planned("later", "sweep", ["a=b"])]
    text = report_markdown(tables, type(collected)(collected.runs, [], planned))
    assert "* `broken`: ?" in text
    assert "* `later`" in text
    assert "<script>" not in re.sub(r"\\<", "", text)


def test_csv_has_every_figure_in_full(collected, tables):
    rows = list(csv.DictReader(io.StringIO(report_csv(tables))))
    found = {(row["run"], row["figure"]): row for row in rows}
    for run in collected.runs:
        for name, value in run.metrics.items():
            row = found[run.label, name]
            assert row["own"] == ("" if math.isnan(value) else repr(value))
            if row["published"] and row["own"]:
                difference = float(row["own"]) - float(row["published"])
                assert float(row["difference"]) == pytest.approx(difference)
    assert found["broken", ""]["status"] == "failed"
    assert found["", "mIoU"]["status"] == "not run"
    published = {(row["row"], row["figure"]): row["published"] for row in rows if row["published"]}
    for row in published_rows():
        for name, value in row.figures.items():
            assert float(published[row.row, name]) == value


def test_csv_holds_no_formulas(tmp_path):
    make_run(tmp_path / "=cmd()", choices={"dataset": "=1+1", "task": "t"}, row="=a_b_c_d")
    text = report_csv(tables_of(collect([tmp_path])))
    assert not re.search(r'(^|,)"?[=+@]', text, re.MULTILINE)


def test_latex_has_the_same_figures_and_is_balanced(tables):
    text = report_latex(tables)
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count("\\begin{") == text.count("\\end{")
    parts = re.findall(r"\\begin\{tabular\}\{(l(r*)l?)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(parts) == len(tables)
    for (columns, _, body), table in zip(parts, tables, strict=True):
        lines = re.split(r"\\\\\n", body.split("\\midrule\n")[1].split("\\bottomrule")[0])
        rows = [re.split(r"(?<!\\)&", line) for line in lines if line]
        assert len(rows) == len(table.lines)
        for row, line in zip(rows, table.lines, strict=True):
            assert len(row) == len(columns)
            texts = [c.strip().replace("$-$", "-").replace("$\\pm$", "±") for c in row]
            wanted = line_texts(line, table)
            assert texts[1 : 1 + len(wanted)] == wanted
    assert "<" not in text.replace("\\textless{}", "")


def test_latex_escapes_what_it_would_run():
    assert escape("\\input{x} 5% & a_b") == "\\textbackslash{}input\\{x\\} 5\\% \\& a\\_b"
    assert escape("two\nlines\x00") == "two lines"
