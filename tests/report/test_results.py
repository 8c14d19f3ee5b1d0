"""The tables of an evaluation."""

import csv
import io
import math

from panoptic_dl.report.results import class_tables, results_csv, results_markdown, summary_table

RESULTS = {
    "panoptic_seg": {"PQ": 62.64, "SQ": 81.5, "PQ-road": 98.0, "SQ-road": 98.5, "PQ-wall-brick": 1},
    "sem_seg": {"IoU": math.nan, "IoU-road": 97.0, "IoU_sup": 90.0, "IoU_sup-flat": 98.25},
}
METRICS = {"PQ": 62.64, "mIoU": math.nan, "PQ_th": 55.0}


def cells(table: str) -> list[list[str]]:
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in lines if set(line[0]) - set("-:")]


def test_the_headline_has_published_figures_and_the_difference_beneath():
    summary = {"metrics": METRICS, "published": {"PQ": 63.3, "mIoU": 80.3}, "measured": {}}
    rows = cells(summary_table(summary))
    assert rows == [
        ["", "PQ", "mIoU", "PQ th"],
        ["own", "62.6", "n/a", "55.0"],
        ["published", "63.3", "80.3", ""],
        ["difference", "-0.7", "n/a", ""],
    ]
    assert len(cells(summary_table(summary | {"published": None}))) == 2


def test_classes_and_categories_have_tables_of_their_own():
    panoptic, semantic, categories = class_tables(RESULTS)
    assert panoptic.columns == ["PQ", "SQ"]
    assert panoptic.rows[0] == ("road", [98.0, 98.5])
    name, (value, missing) = panoptic.rows[1]
    assert (name, value) == ("wall-brick", 1)
    assert math.isnan(missing)
    assert semantic.rows == [("road", [97.0])]
    assert categories.title == "Semantic segmentation by category"
    assert categories.rows == [("flat", [98.25])]
    assert cells(panoptic.text())[2] == ["wall-brick", "1.0", "n/a"]


def test_csv_holds_every_figure_in_full():
    rows = list(csv.reader(io.StringIO(results_csv({"results": RESULTS}))))
    assert rows[0] == ["task", "metric", "class", "value"]
    assert ["panoptic_seg", "PQ", "wall-brick", "1"] in rows
    assert ["sem_seg", "IoU", "", ""] in rows
    assert len(rows) == 1 + sum(map(len, RESULTS.values()))


def test_no_class_is_a_formula_or_tears_a_row():
    names = ['=HYPERLINK("http://x","y")', "a\nb|", "c\x1b[2Jd"]
    results = {"panoptic_seg": {f"PQ-{name}": 1.0 for name in names}}
    rows = list(csv.reader(io.StringIO(results_csv({"results": results}))))
    assert [row[2] for row in rows[1:]] == [f"'{names[0]}", "a?b|", "c?[2Jd"]
    (table,) = class_tables(results)
    assert len(table.text().splitlines()) == 2 + len(names)
    assert "\x1b" not in table.text()


def test_markdown_holds_all_tables_and_the_note():
    summary = {
        "dataset": "streets",
        "num_images": 3,
        "measured": {"weights": "mine.pth", "scales": [1.0], "flip": True},
        "metrics": METRICS,
        "published": {"PQ": 63.3},
        "published_note": "trained longer",
        "results": RESULTS,
    }
    text = results_markdown(summary)
    assert text.startswith("# streets: 3 images\n")
    assert "Measured: weights=mine.pth, scales=[1.0], flip=True" in text
    assert "Note: trained longer" in text
    assert "Note: published metrics are of one look at each image" in text
    assert text.count("## ") == 3
    assert "Note" not in results_markdown(summary | {"published": None})
