"""Charts of classes: whole for any number of classes, for none in the truth, and the same again."""

import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from panoptic_dl.visualize.charts import (
    _worst_classes,
    draw_class_bars,
    draw_confusions,
    worst_pairs,
)

pytestmark = pytest.mark.thorough


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []

    def save(self, file, **options):
        original(self, file, **options)
        figures.append(self)

    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", save)
    return figures


def texts_of(figure):
    texts = [*figure.texts, *(legend.get_title() for legend in figure.legends)]
    for axes in figure.axes:
        texts += [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]
    return [text for text in texts if text.get_text() and text.get_visible()]


def require_readable(figure):
    """No text leaves the figure or covers another."""
    canvas = FigureCanvasAgg(figure)
    width, height = canvas.get_width_height()
    renderer = canvas.get_renderer()
    boxes = []
    for text in texts_of(figure):
        box = text.get_window_extent(renderer)
        inside = box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
        assert inside, text.get_text()
        if not text.get_rotation():
            boxes.append((text.get_text(), box.shrunk(0.9, 0.7)))
    for index, (text, box) in enumerate(boxes):
        for other, second in boxes[index + 1 :]:
            assert not box.overlaps(second), (text, other)


def words(figure):
    return [text.get_text() for text in texts_of(figure)]


@pytest.mark.parametrize("number", [1, 19, 133])
def test_bars_of_any_number_of_classes(tmp_path, drawn, number):
    draw = np.random.default_rng(number)
    names = [f"class number {index}-merged" for index in range(number)]
    values = dict(zip(names, 100 * draw.random(number), strict=True))
    values["never seen"] = math.nan
    others = {"SQ": dict.fromkeys(names, 90.0), "RQ": dict(values)}
    for file in ("a.png", "b.png"):
        draw_class_bars(
            values,
            tmp_path / "new" / file,
            title="some_dataset_val",
            measure="PQ",
            things=names[::2],
            others=others,
        )
    require_readable(drawn[0])
    texts = words(drawn[0])
    mean = np.mean([value for value in values.values() if not math.isnan(value)])
    assert any(f"some_dataset_val   mean PQ {mean:.1f}" in text for text in texts)
    assert any("Not in the ground truth (1 classes): never seen" in text for text in texts)
    shown = [text for text in texts if text.startswith("class number")]
    ordered = sorted(names, key=lambda name: -values[name])
    assert shown == [name.removesuffix("-merged") for name in ordered]
    assert (tmp_path / "new/a.png").read_bytes() == (tmp_path / "new/b.png").read_bytes()


def test_bars_without_a_single_figure(tmp_path, drawn):
    names = [f"class {index}" for index in range(133)]
    values = dict.fromkeys(names, math.nan)
    draw_class_bars(values, tmp_path / "a.png", title="empty_val", measure="IoU")
    require_readable(drawn[0])
    assert any("no class is in the ground truth" in text for text in words(drawn[0]))


def counts_of(number: int, right: int = 1000) -> np.ndarray:
    draw = np.random.default_rng(number)
    counts = draw.integers(0, 40, (number, number + 1))
    counts[np.arange(number), np.arange(number)] += right
    return counts


@pytest.mark.parametrize("number", [1, 2, 19, 133])
def test_confusions_of_any_number_of_classes(tmp_path, drawn, number):
    counts = counts_of(number)
    counts[number // 2, -1] += 5000
    names = [f"name of class {index}" for index in range(number)]
    for file in ("a.png", "b.png"):
        draw_confusions(counts, names, tmp_path / "new" / file, title="some_dataset_val")
    require_readable(drawn[0])
    texts = words(drawn[0])
    right = 100 * np.trace(counts) / counts.sum()
    assert f"some_dataset_val   {right:.1f} % of the pixels are right" in texts
    assert f"{names[number // 2]} as nothing" in texts
    assert texts.count("all others") == (number > 30)
    with Image.open(tmp_path / "new/a.png") as first:
        assert max(first.size) < 3000
    assert (tmp_path / "new/a.png").read_bytes() == (tmp_path / "new/b.png").read_bytes()


def test_rows_are_percentages_of_true_classes(tmp_path, drawn):
    counts = np.array([[0, 0, 0, 0], [4, 90, 0, 6], [0, 0, 0, 0]])
    draw_confusions(counts, ["sky", "road", "train"], tmp_path / "a.png", title="t")
    texts = words(drawn[0])
    assert [text for text in texts if text.isdigit()] == ["90", "4", "6"]
    # Of the classes without ground truth one has a column, since it was predicted; none has a row.
    matrix = drawn[0].axes[0]
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["road", "sky", "nothing"]
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["road"]
    assert any("2 classes without ground truth have no row" in text for text in texts)
    lines = ["60.0 %  (6 %)", "40.0 %  (4 %)", "road as nothing", "road as sky"]
    assert [text for text in texts if text in lines] == lines
    require_readable(drawn[0])


def test_names_with_dollars_are_no_formulas(tmp_path, drawn):
    names = ["$$ <b>", "US$ in CA$", "one $"]
    draw_class_bars(
        dict(zip(names, (1.0, 2.0, math.nan), strict=True)),
        tmp_path / "a.png",
        title="t",
        measure="PQ",
    )
    draw_confusions(counts_of(3), names, tmp_path / "b.png", title="t")
    for figure in drawn:
        require_readable(figure)
        assert any(r"US\$ in CA\$" in text for text in words(figure))


@pytest.mark.parametrize("counts", [np.zeros((3, 4), np.int64), np.eye(3, 4, dtype=np.int64)])
def test_without_confusions(tmp_path, drawn, counts):
    draw_confusions(counts, ["a", "b", "c"], tmp_path / "a.png", title="t")
    require_readable(drawn[0])
    assert "no pixel is wrong" in words(drawn[0])


def test_the_worst_are_chosen_by_wrong_pixels():
    counts = np.zeros((5, 6), np.int64)
    counts[range(5), range(5)] = 10**6  # right ones do not matter
    counts[4, 1], counts[2, 5], counts[0, 3] = 7, 9, 7
    assert worst_pairs(counts, 2) == [(2, 5), (0, 3)]
    assert worst_pairs(counts, 9) == [(2, 5), (0, 3), (4, 1)]
    assert _worst_classes(counts, 3) == [0, 1, 2]
    assert _worst_classes(counts, 9) == [0, 1, 2, 3, 4]
