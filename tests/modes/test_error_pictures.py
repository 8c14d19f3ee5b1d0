"""Pictures of the best and worst images: which ones, and alike for two processes."""

import math
import random

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.error_map import PANOPTIC_KINDS, SEMANTIC_KINDS
from panoptic_dl.modes.error_pictures import (
    CELL_WIDTH,
    HEADINGS,
    ErrorDrawer,
    ErrorPictures,
    TopK,
    _compress,
    _expand,
    worst_and_best,
)
from panoptic_dl.visualize.overlays import draw_errors
from tests.evaluation.scenes import DIVISOR, panoptic_scene
from tests.modes.error_scenes import (
    EXPECTED,
    NUM_IMAGES,
    make_dataset,
    names,
    offer_all,
    panoptic_output,
)


def test_best_and_worst_in_order_and_nothing_else_is_kept(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 2, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES))
    assert len(pictures._top.kept) == 4
    sheets = pictures.draw()
    assert [sheet.name for sheet in sheets] == ["worst.png", "best.png"]
    assert names(tmp_path / "errors") == EXPECTED
    with Image.open(sheets[0]) as sheet, Image.open(tmp_path / "errors/worst-2-1.png") as part:
        assert part.width == sheet.width == 4 * (CELL_WIDTH + 8) + 8
        # A scene of 14 x 18 pixels fits 480 pixels of height; then 2 lines of head, 1 of caption.
        assert part.height == 68 + 34 + 480 + 8
        assert sheet.height == 68 + 2 * (34 + 480 + 8)
        row = np.asarray(sheet)[68 + 522 :]
        assert (row == np.asarray(part)[68:]).all()
        assert len(np.unique(row.reshape(-1, 3), axis=0)) > 20


def test_old_pictures_go_and_those_of_others_stay(tmp_path):
    folder = tmp_path / "errors"
    folder.mkdir()
    for name in ("worst-9-old.png", "best.png", "worst.txt", "bestiary.png"):
        (folder / name).write_text("old")
    pictures = ErrorPictures(make_dataset(tmp_path), 2, folder)
    offer_all(pictures, range(NUM_IMAGES))
    pictures.reset()
    offer_all(pictures, [4, 6])  # one of them has no quality
    assert [sheet.name for sheet in pictures.draw()] == ["worst.png"]
    assert names(folder) == ["bestiary.png", "worst-1-6.png", "worst.png", "worst.txt"]
    pictures.reset()
    assert pictures.draw() == []
    assert names(folder) == ["bestiary.png", "worst.txt"]


def test_none_are_wanted(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 0, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES))
    assert pictures.draw() == []
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize("scores", [False, True])
def test_semantic_predictions(tmp_path, scores):
    dataset = make_dataset(tmp_path)

    def output(index):
        classes = torch.from_numpy(panoptic_scene(index).panoptic) // DIVISOR
        one_hot = torch.nn.functional.one_hot(classes.clamp(min=0), 6).permute(2, 0, 1).float()
        return {"sem_seg": one_hot if scores else classes}

    pictures = ErrorPictures(dataset, 1, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES), output)
    stored = _expand(*next(iter(pictures._top.kept.values())))
    expected = panoptic_scene(7).panoptic // DIVISOR
    assert (stored == (expected.clip(0) if scores else expected)).all()
    assert len(pictures.draw()) == 2


def test_what_cannot_be_drawn_is_refused(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 1, tmp_path / "errors")
    with pytest.raises(EvaluationError, match="stranger"):
        pictures.on_image({"file_name": "stranger.png"}, panoptic_output(0), 0.5)
    file = DatasetCatalog.get(pictures.dataset)[0]["file_name"]
    listed = {"panoptic_seg": (torch.ones(2, 2, dtype=torch.int32), [{"id": 1}])}
    with pytest.raises(EvaluationError, match="no list of segments"):
        pictures.on_image({"file_name": file}, listed, 0.5)


def test_kept_maps_are_small_and_whole():
    panoptic = np.full((1024, 2048), -1)
    panoptic[300:, 100:900] = 18 * DIVISOR + 42
    data, shape = _compress(panoptic)
    assert len(data) < 100_000
    assert (_expand(data, shape) == panoptic).all()


HEIGHT, WIDTH = 20, 40


ROAD, CAR, BUS = 0, 1000, 2000


@pytest.fixture
def drawer():
    metadata = Metadata(
        stuff_classes=["road-merged", "car", "bus"],
        thing_dataset_id_to_contiguous_id={1: 1, 2: 2},
        label_divisor=1000,
    )
    return ErrorDrawer(metadata)


@pytest.fixture
def record(tmp_path):
    """Road above, two cars below."""
    ids = np.full((HEIGHT, WIDTH), 1)
    ids[10:, :20], ids[10:, 20:] = 2, 300
    Image.new("RGB", (WIDTH, HEIGHT), (128, 128, 128)).save(tmp_path / "i.png")
    Image.fromarray(id2rgb(ids)).save(tmp_path / "t.png")
    segments = [{"id": i, "category_id": int(i > 1), "iscrowd": 0} for i in (1, 2, 300)]
    return {
        "file_name": str(tmp_path / "i.png"),
        "pan_seg_file_name": str(tmp_path / "t.png"),
        "segments_info": segments,
    }


def prediction():
    """The left car is missed, the right one a bus."""
    panoptic = np.zeros((HEIGHT, WIDTH), np.int64)
    panoptic[10:, :20], panoptic[10:, 20:] = -1, BUS + 1
    return panoptic


def expected_errors(kinds, names):
    grey = np.full((1, len(kinds), 3), 128, np.uint8)
    return draw_errors(grey, np.array([[names.index(kind) for kind in kinds]]), names)[0].tolist()


def test_a_panoptic_row(drawer, record):
    pictures, words, legend = drawer.panoptic(record, prediction(), (WIDTH, HEIGHT))
    assert len(pictures) == len(HEADINGS)
    assert {picture.shape for picture in pictures} == {(HEIGHT, WIDTH, 3)}
    places = [pictures[-1][y, x].tolist() for y, x in ((5, 5), (15, 10), (15, 30))]
    assert places == expected_errors(("right", "missed", "mismatched"), PANOPTIC_KINDS)
    assert words == "1 of 3 segments found  ·  missed: 2 car  ·  false positives: 1 bus"
    assert len(legend) == len(PANOPTIC_KINDS)


def test_a_semantic_row(drawer, record):
    pictures, words, _ = drawer.semantic(record, prediction() // 1000, (2 * WIDTH, 2 * HEIGHT))
    assert {picture.shape for picture in pictures} == {(2 * HEIGHT, 2 * WIDTH, 3)}
    places = [pictures[-1][y, x].tolist() for y, x in ((10, 10), (30, 20), (30, 60))]
    assert places == expected_errors(("right", "wrong", "wrong"), SEMANTIC_KINDS)
    assert words == "50.0 % of pixels right  ·  wrong: car as bus 25.0 %, car as nothing 25.0 %"


def test_what_is_right_has_no_list_of_errors(drawer, record):
    truth = prediction()
    truth[10:, :20], truth[10:, 20:] = CAR + 1, CAR + 2
    _, right, _ = drawer.panoptic(record, truth, (WIDTH, HEIGHT))
    assert right == "3 of 3 segments found"
    _, classes, _ = drawer.semantic(record, truth // 1000, (WIDTH, HEIGHT))
    assert classes == "100.0 % of pixels right"


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_sizes_must_be_those_of_the_truth(drawer, record, kind):
    with pytest.raises(EvaluationError, match=r"\(20, 39\).*\(20, 40\)"):
        getattr(drawer, kind)(record, np.zeros((HEIGHT, WIDTH - 1), np.int64), (WIDTH, HEIGHT))


def offered(keys, count):
    top: TopK[str] = TopK(count)
    for key in keys:
        top.add(key, lambda key=key: f"made for {key}")
        assert len(top.kept) == len(top.keys) <= 2 * count
    return top


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9, 10, 11, 60])
def test_they_are_those_of_the_sorted_whole(count, number):
    draw = random.Random(number)
    for _ in range(20):
        keys = [(draw.choice([0.0, 0.25, 0.5, 1.0, draw.random()]), i) for i in range(number)]
        draw.shuffle(keys)
        top = offered(keys, count)
        ordered = sorted(keys)
        expected = ordered if number <= 2 * count else ordered[:count] + ordered[number - count :]
        assert top.keys == expected
        assert top.kept == {key: f"made for {key}" for key in expected}
        worst, best = worst_and_best(top.keys, count)
        assert (worst, best) == worst_and_best(keys, count)
        assert worst == ordered[: len(worst)]
        assert best == ordered[::-1][: len(best)]
        assert not set(worst) & set(best)
        assert len(worst) + len(best) == min(number, 2 * count)
        assert 0 <= len(worst) - len(best) <= 1


def test_what_is_neither_is_not_even_made():
    top = offered([(0.1, 0), (0.9, 1)], 1)
    top.add((0.5, 2), lambda: pytest.fail("compressed in vain"))
    top.add((math.nan, 3), lambda: pytest.fail("without a quality"))
    assert top.keys == [(0.1, 0), (0.9, 1)]


def test_of_equal_ones_the_first_image_is_worse():
    assert worst_and_best([(0.5, 3), (0.5, 1), (0.5, 2)], 1) == ([(0.5, 1)], [(0.5, 3)])
