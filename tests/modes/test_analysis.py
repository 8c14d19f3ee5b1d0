"""The oracle analysis as a table, a sentence and a picture."""

import itertools
import math

import pytest
from PIL import Image

from panoptic_dl.modes.analyze import (
    _conclusion,
    _table,
    analysis_text,
    draw_analysis,
)

BRANCHES = ("semantic", "center", "offset")


def rows(*qualities):
    """The eight rows with these PQ: of the model, semantic, centre, offset, pairs, all."""
    combinations = [c for n in range(4) for c in itertools.combinations(BRANCHES, n)]
    figures = ("SQ", "RQ", "PQ_th", "PQ_st")
    return [
        {
            "truth": list(truth),
            "metrics": {"PQ": pq, **dict.fromkeys(figures, 50.0)},
            "gain": pq - qualities[0],
        }
        for truth, pq in zip(combinations, qualities, strict=True)
    ]


USUAL = rows(40.0, 60.0, 41.0, 45.5, 70.0, 80.0, 47.0, 99.0)


def test_the_table_marks_what_is_true_and_what_it_gains():
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in _table(USUAL).splitlines()
    ]
    figures = ["PQ", "SQ", "RQ", "PQ th", "PQ st"]
    assert lines[0] == ["semantic", "center", "offset", *figures, "gain"]
    assert lines[2] == ["", "", "", "40.0", "50.0", "50.0", "50.0", "50.0", ""]
    assert lines[4] == ["", "truth", "", "41.0", "50.0", "50.0", "50.0", "50.0", "+1.0"]
    assert lines[7][:3] == ["truth", "", "truth"]
    assert lines[9][:4] == ["truth", "truth", "truth", "99.0"]


@pytest.mark.parametrize(
    ("qualities", "text"),
    [
        ((40, 60, 41, 45.5, 70, 80, 47, 99), "The semantic branch limits this model"),
        ((40, 41, 60, 45.5, 70, 80, 47, 99), "The center branch limits this model"),
        ((40, 41, 45.5, 60, 70, 80, 47, 99), "(offset +20.0, center +5.5, semantic +1.0 PQ)"),
        ((40, 40, 40, 39, 70, 80, 47, 99), "No branch's truth alone gains PQ"),
        ((40, 60, 41, 45, 70, 80, 47, 99), "With all three true PQ is 99.0"),
        ((math.nan,) * 8, "no image has a segment"),
    ],
)
def test_the_sentence_names_the_branch_that_gains_most(qualities, text):
    assert text in _conclusion(rows(*map(float, qualities)))


def test_what_all_truth_leaves_is_mentioned_only_where_there_is_some():
    assert "all three" not in _conclusion(rows(40.0, 60.0, 41.0, 45.0, 70.0, 80.0, 47.0, 100.0))


@pytest.mark.parametrize("unlabelled", ["predicted", "void"])
def test_text_and_picture(tmp_path, unlabelled):
    analysis = {"name": "mine", "dataset": "streets", "num_images": 3, "unlabelled": unlabelled}
    text = analysis_text(analysis | {"combinations": USUAL})
    assert text.startswith("mine on streets (3 images)")
    assert ("unlabelled" in text) == (unlabelled == "void")
    for name, combinations in (("usual", USUAL), ("empty", rows(*[math.nan] * 8))):
        draw_analysis(analysis | {"combinations": combinations}, tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width > 1000


def test_long_names_do_not_leave_the_picture(tmp_path):
    analysis = {
        "name": "toy_cityscapes_panoptic_hrnet_tiny_conv",
        "dataset": "toy_cityscapes_fine_panoptic_val",
        "num_images": 500,
        "combinations": USUAL,
    }
    draw_analysis(analysis, tmp_path / "long.png")
    with Image.open(tmp_path / "long.png") as picture:
        edge = picture.convert("L").crop((picture.width - 3, 0, picture.width, picture.height))
        assert edge.getextrema() == (255, 255)
