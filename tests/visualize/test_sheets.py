"""Sheets, legends, galleries and samples for loggers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl.visualize.sheets import (
    SAMPLE_SIDE,
    fit,
    legend_strip,
    make_sample,
    save_gallery,
    save_sheet,
    with_legend,
)

DIVISOR = 1000


@pytest.mark.parametrize("height", [30, 40, 60, 80])
def test_upright_images_fill_their_rows(tmp_path, height):
    """Beside four panels, a third of the sheet was empty once."""
    rows = [[np.full((height, 40, 3), 9, np.uint8)] * 4]
    save_sheet(rows, "abcd", tmp_path / "s.png", cell_width=80)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert (sheet[34:] == 9).all(axis=-1).mean() > 0.75


def test_a_long_caption_is_cut_at_a_word(tmp_path):
    rows = [[np.zeros((10, 20, 3), np.uint8)]]
    for number in (1, 400):
        caption = " ".join(["word"] * number)
        save_sheet(rows, ("x",), tmp_path / f"{number}.png", captions=[caption], cell_width=200)
    sheet = np.asarray(Image.open(tmp_path / "400.png"))
    assert sheet.shape == np.asarray(Image.open(tmp_path / "1.png")).shape
    assert (sheet[34:68, -8:] > 240).all()  # nothing runs over the edge


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        *(((10, 20), (80, 40)), ((20, 10), (80, 160)), ((40, 10), (40, 160))),
        *(((1, 500, 3), (80, 1)), ((500, 1, 3), (1, 160))),
    ],
)
def test_pictures_fit_their_cell(shape, size):
    assert fit(shape, 80) == size


def test_a_sheet_has_a_row_for_each_image(tmp_path):
    rows = [[np.full((40, 80, 3), 9, np.uint8)] * 3, [np.full((80, 40, 3), 9, np.uint8)] * 3]
    save_sheet(rows, ("x", "y", "z"), tmp_path / "new" / "s.png", cell_width=80)
    with Image.open(tmp_path / "new" / "s.png") as sheet:
        assert sheet.size == (3 * 88 + 8, 34 + (40 + 8) + (160 + 8))


def test_each_picture_can_have_a_heading_and_legends_are_below(tmp_path):
    pictures = [np.full((40, 80, 3), 9, np.uint8)] * 3
    legend = [("short", (200, 0, 0)), ("longer", (0, 200, 0))]
    files = tmp_path / "own.png", tmp_path / "columns.png"
    for file, headings in zip(files, ("xyz", "xy"), strict=True):
        save_sheet([pictures[:2], pictures[2:]], headings, file, legend=legend, cell_width=80)
    own, columns = (np.asarray(Image.open(file)) for file in files)
    assert len(own) == len(columns) + 34
    assert (own[34 + 48 : 34 + 48 + 34].min(axis=-1) < 100).any()
    for color in ((200, 0, 0), (0, 200, 0)):
        assert (own[164:] == color).all(axis=-1).any()
        assert not (own[:164] == color).all(axis=-1).any()


def test_a_gallery_has_each_picture_once_and_none_of_an_earlier_evaluation(tmp_path):
    folder = tmp_path / "gallery"
    row = [np.full((900, 1800, 3), shade, np.uint8) for shade in (10, 120, 240)]
    save_gallery(["old"], [row], folder)
    (folder / "notes.txt").write_text("mine")
    small = [np.full((1, 3, 3), 7, np.uint8)] * 3
    save_gallery(["a/b", "a:b", "a" * 300], [row, small, small], folder)
    names = ["a_b", "a_b-2", "a" * 120]
    wanted = {f"{name}_{kind}.jpg" for name in names for kind in ("image", "truth", "prediction")}
    assert {file.name for file in folder.iterdir()} == wanted | {"notes.txt"}
    for kind, shade in (("image", 10), ("truth", 120), ("prediction", 240)):
        with Image.open(folder / f"a_b_{kind}.jpg") as picture:
            assert picture.size == (640, 320)
            assert abs(int(np.asarray(picture).mean()) - shade) <= 1
    with Image.open(folder / "a_b-2_truth.jpg") as picture:
        assert picture.size == (3, 1)  # never enlarged


def grey(*size):
    return np.full((*size, 3), 100, np.uint8)


def test_a_legend_names_all_in_as_many_lines_as_it_takes():
    entries = [(f"class {i}", (i, 0, 0)) for i in range(30)]
    wide, narrow = legend_strip(entries, 2000, 14), legend_strip(entries, 200, 14)
    assert wide.shape[1] == 2000
    assert narrow.shape[0] > 5 * wide.shape[0]
    for red in range(30):
        assert (narrow == (red, 0, 0)).all(axis=-1).any(), red
    assert with_legend(grey(50, 10), entries).shape[1] == 240  # names need room
    assert np.array_equal(with_legend(grey(5, 5), []), grey(5, 5))


@given(st.integers(1, 60), st.integers(1, 60))
def test_small_ones_stay_as_they_are(height, width):
    classes = np.arange(height * width).reshape(height, width) % 5 - 1
    panoptic = np.where(classes < 0, -1, classes * DIVISOR + 3)
    image = np.zeros((height, width, 3), np.uint8)
    made = make_sample("x", image, panoptic, panoptic, DIVISOR)
    assert (made.ground_truth == classes).all()
    assert (made.image == image).all()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((1024, 2048), (512, 1024)), ((4000, 1), (1024, 1)), ((7, 3000), (2, 1024))],
)
def test_large_ones_are_shrunk(size, wanted):
    left = np.arange(size[1]) < size[1] // 2
    classes = np.broadcast_to(np.where(left, 2, -1), size)
    image = np.repeat(np.where(left, 250, 10).astype(np.uint8)[None, :, None], 3, 2)
    image = np.broadcast_to(image, (*size, 3)).copy()
    panoptic = np.where(classes < 0, -1, classes * DIVISOR)
    made = make_sample("x", image, panoptic, panoptic[::2, ::2], DIVISOR)
    assert made.image.shape == (*wanted, 3)
    assert max(made.image.shape) <= SAMPLE_SIDE
    assert made.ground_truth.shape == made.prediction.shape == wanted
    assert set(np.unique(made.ground_truth)) <= {-1, 2}
    bright = made.image[..., 0] > 128
    assert (bright == (made.ground_truth == 2)).mean() > 0.99  # maps and image lie on each other
