"""Errors stand out from what is right, and sheets with captions and a legend join."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.evaluation.error_map import PANOPTIC_KINDS, SEMANTIC_KINDS
from panoptic_dl.visualize.overlays import TINTS, draw_errors, error_legend
from panoptic_dl.visualize.sheets import fit, join_sheets, save_sheet


@pytest.mark.parametrize("names", [PANOPTIC_KINDS, SEMANTIC_KINDS])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_each_kind_has_its_own_colour_on_any_image(names, level):
    kinds = np.arange(len(names))[None]
    image = np.full((1, len(names), 3), level, np.uint8)
    picture = draw_errors(image, kinds, names)[0] / 255
    saturation = {
        name: colorsys.rgb_to_hsv(*color)[1] for name, color in zip(names, picture, strict=True)
    }
    for name, value in saturation.items():
        if name in ("right", "not counted"):
            assert value < 0.4
        else:
            assert value > saturation["right"]
    distances = np.abs(picture[:, None] - picture[None]).sum(axis=-1)
    assert distances[~np.eye(len(names), dtype=bool)].min() > 0.2


def test_the_legend_has_all_kinds_and_no_other():
    for names in (PANOPTIC_KINDS, SEMANTIC_KINDS):
        words = [word for word, _ in error_legend(names)]
        assert sorted(words) == sorted(TINTS[name][0] for name in names)


def sheet(tmp_path, name, height):
    rows = [[np.full((height, 40, 3), height, np.uint8)] * 2]
    file = tmp_path / "new" / f"{name}.png"
    legend = [("right", (0, 200, 0)), ("wrong", (200, 0, 0))]
    save_sheet(
        rows,
        ("x", "y"),
        file,
        captions=["a caption"],
        title="t",
        legend=legend,
        cell_width=80,
        cell_height=60,
    )
    return file


def test_sheets_join_below_one_head(tmp_path):
    files = [sheet(tmp_path, "a", 30), sheet(tmp_path, "b", 90)]
    join_sheets(files, tmp_path / "joined.png")
    first, second, joined = (
        np.asarray(Image.open(file)) for file in (*files, tmp_path / "joined.png")
    )
    assert first.shape == second.shape == (68 + 34 + 60 + 8, 2 * 88 + 8, 3)
    assert (joined == np.concatenate([first, second[68:]])).all()
    # The portrait is narrower than its cell, and in its middle.
    line = (second[68 + 34 + 30, 8:88] == 90).all(axis=-1)
    assert np.flatnonzero(line).tolist() == list(range(26, 53))


def test_a_long_caption_is_cut_at_a_word(tmp_path):
    rows = [[np.zeros((10, 20, 3), np.uint8)]]
    for number in (1, 400):
        caption = " ".join(["word"] * number)
        save_sheet(rows, ("x",), tmp_path / f"{number}.png", captions=[caption], cell_width=200)
    sheet = np.asarray(Image.open(tmp_path / "400.png"))
    assert sheet.shape == np.asarray(Image.open(tmp_path / "1.png")).shape
    assert (sheet[34:68, -8:] > 240).all()  # nothing runs over the edge


@pytest.mark.parametrize(
    ("shape", "size"), [((10, 20), (80, 40)), ((20, 10), (30, 60)), ((1, 500, 3), (80, 1))]
)
def test_pictures_fit_their_cell(shape, size):
    assert fit(shape, 80, 60) == size
