"""One image with its errors: in the picture where they are, and in words which."""

import numpy as np
import pytest
from detectron2.data.catalog import Metadata
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.error_map import PANOPTIC_KINDS, SEMANTIC_KINDS
from panoptic_dl.modes.error_pictures import HEADINGS, RowDrawer
from panoptic_dl.visualize.overlays import draw_errors

HEIGHT, WIDTH = 20, 40
ROAD, CAR, BUS = 0, 1000, 2000


@pytest.fixture
def drawer():
    metadata = Metadata(
        stuff_classes=["road-merged", "car", "bus"],
        thing_dataset_id_to_contiguous_id={1: 1, 2: 2},
        label_divisor=1000,
    )
    return RowDrawer(metadata)


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
    row = drawer.panoptic(record, prediction(), (WIDTH, HEIGHT))
    assert len(row.pictures) == len(HEADINGS)
    assert {picture.shape for picture in row.pictures} == {(HEIGHT, WIDTH, 3)}
    places = [row.pictures[-1][y, x].tolist() for y, x in ((5, 5), (15, 10), (15, 30))]
    assert places == expected_errors(("right", "missed", "mismatched"), PANOPTIC_KINDS)
    assert row.words == "1 of 3 segments found  ·  missed: 2 car  ·  false positives: 1 bus"
    assert len(row.legend) == len(PANOPTIC_KINDS)


def test_a_semantic_row(drawer, record):
    row = drawer.semantic(record, prediction() // 1000, (2 * WIDTH, 2 * HEIGHT))
    assert {picture.shape for picture in row.pictures} == {(2 * HEIGHT, 2 * WIDTH, 3)}
    places = [row.pictures[-1][y, x].tolist() for y, x in ((10, 10), (30, 20), (30, 60))]
    assert places == expected_errors(("right", "wrong", "wrong"), SEMANTIC_KINDS)
    assert row.words == "50.0 % of pixels right  ·  wrong: car as bus 25.0 %, car as nothing 25.0 %"


def test_what_is_right_has_no_list_of_errors(drawer, record):
    truth = prediction()
    truth[10:, :20], truth[10:, 20:] = CAR + 1, CAR + 2
    right = drawer.panoptic(record, truth, (WIDTH, HEIGHT))
    assert right.words == "3 of 3 segments found"
    classes = drawer.semantic(record, truth // 1000, (WIDTH, HEIGHT))
    assert classes.words == "100.0 % of pixels right"


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_sizes_must_be_those_of_the_truth(drawer, record, kind):
    with pytest.raises(EvaluationError, match=r"\(20, 39\).*\(20, 40\)"):
        getattr(drawer, kind)(record, np.zeros((HEIGHT, WIDTH - 1), np.int64), (WIDTH, HEIGHT))
