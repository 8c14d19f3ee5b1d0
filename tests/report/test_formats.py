"""Markdown, CSV and LaTeX have the same cells as the tables."""

import csv
import io
import math
import re

import pytest

from panoptic_dl.core.files import latex_text
from panoptic_dl.report.formats import (
    cell_texts,
    line_texts,
    report_csv,
    report_latex,
    report_markdown,
    table_markdown,
)
from panoptic_dl.report.runs import collect
from panoptic_dl.report.tables import build_tables, published_rows

from .run_folders import make_run


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
            assert re.sub(r" \(\d+\)$", "", row[0]) == line.name.strip()
            assert not table.published or row[-1] == line.verdict.text


def test_markdown_lists_failed_and_planned_runs(collected, tables):
    planned = [("later", ["a=b"])]
    text = report_markdown(tables, type(collected)(collected.runs, [], planned))
    assert "* `broken`: ?" in text
    assert "* `later`" in text
    assert "<script>" not in re.sub(r"\\<", "", text)


def test_csv_has_every_metric_in_full(collected, tables):
    rows = list(csv.DictReader(io.StringIO(report_csv(tables))))
    found = {(row["run"], row["metric"]): row for row in rows}
    for run in collected.runs:
        for name, value in run.metrics.items():
            row = found[run.label, name]
            assert row["own"] == ("" if math.isnan(value) else repr(value))
            if row["published"] and row["own"]:
                difference = float(row["own"]) - float(row["published"])
                assert float(row["difference"]) == pytest.approx(difference)
    assert found["broken", ""]["status"] == "failed"
    assert found["", "mIoU"]["status"] == "not run"
    published = {(row["row"], row["metric"]): row["published"] for row in rows if row["published"]}
    for row in published_rows():
        for name, value in row.metrics.items():
            assert float(published[row.row, name]) == value


def test_names_tear_no_row_and_reach_no_terminal(tmp_path):
    evil = "a\nb | c\x1b[2J\u202e<img src=x>"
    make_run(tmp_path / "run", "x", choices={"dataset": evil, "task": evil, "backbone": evil})
    collected = collect([tmp_path])
    tables = build_tables(collected.runs)
    for text in (report_markdown(tables, collected), report_csv(tables), report_latex(tables)):
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    (table,) = [table for table in tables if not table.published]
    assert len(cells_of(table_markdown(table))) == 3
    assert "\\<img" in table_markdown(table)


def test_csv_holds_no_formulas(tmp_path):
    make_run(tmp_path / "=cmd()", choices={"dataset": "=1+1", "task": "t"}, row="=a_b_c_d")
    text = report_csv(build_tables(collect([tmp_path]).runs))
    assert not re.search(r'(^|,)"?[=+@]', text, re.MULTILINE)


def test_latex_has_the_same_metrics_and_is_balanced(tables):
    text = report_latex(tables).replace("\\allowbreak{}", "")
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count("\\begin{") == text.count("\\end{")
    parts = re.findall(r"\\begin\{tabular\}\{(lr*l?)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(parts) == len(tables)
    for (columns, body), table in zip(parts, tables, strict=True):
        lines = re.split(r"\\\\\n", body.split("\\midrule\n")[1].split("\\bottomrule")[0])
        rows = [re.split(r"(?<!\\)&", line) for line in lines if line.strip()]
        assert all(len(row) == len(columns) for row in rows)
        found = [[c.strip().replace("$-$", "-").replace("$\\pm$", "±") for c in r] for r in rows]
        wanted = [
            list(texts[1:])
            for line in table.lines
            for texts in zip(
                *([""] * 3 if table.published else [""],),
                *(cell_texts(line.cells.get(n), table.published) for n in table.columns),
                strict=True,
            )
        ]
        assert [row[1 : 1 + len(table.columns)] for row in found] == wanted
    assert "<" not in text.replace("\\textless{}", "")


def test_latex_escapes_what_it_would_run():
    assert (
        latex_text("\\input{x} 5% & a_b")
        == "\\textbackslash{}input\\{x\\} 5\\% \\& a\\_\\allowbreak{}b"
    )
    assert latex_text("two\nlines\x00") == "two lines?"
