"""Pictures of the first, the best and the worst images: which ones, and what they say."""

import random

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.evaluation.error_map import PANOPTIC_KINDS, SEMANTIC_KINDS
from panoptic_dl.modes import pictures as pictures_module
from panoptic_dl.modes.pictures import (
    CELL_WIDTH,
    EvaluationPictures,
    _compress,
    _expand,
    _ground_truth,
    _worst_and_best,
)
from panoptic_dl.visualize.overlays import draw_errors
from tests.evaluation.scenes import DIVISOR, panoptic_scene
from tests.modes.error_scenes import (
    EXPECTED,
    NUM_IMAGES,
    best_and_worst,
    make_dataset,
    names,
    offer_all,
)


def test_best_and_worst_in_order_and_nothing_else_is_kept(tmp_path):
    pictures = best_and_worst(make_dataset(tmp_path), 2, tmp_path)
    offer_all(pictures, range(NUM_IMAGES))
    assert len(pictures._kept) == 4
    sheets = pictures.draw({}, []).pictures
    assert [sheet.name for sheet in sheets] == ["worst.png", "best.png"]
    folder = tmp_path / "pictures"
    assert names(folder) == EXPECTED
    with Image.open(sheets[0]) as sheet:
        assert sheet.width == 4 * (CELL_WIDTH + 8) + 8
        # A scene of 14 x 18 pixels is 498 pixels high; then 2 lines of head, 1 of caption.
        assert 0 < sheet.height - (68 + 2 * (34 + 498 + 8)) < 68  # a line of legend
        row = np.asarray(sheet)[68 + 540 : 68 + 2 * 540]
        assert len(np.unique(row.reshape(-1, 3), axis=0)) > 20


def test_old_pictures_go_and_those_of_others_stay(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("worst-9.png", "best.png", "worst.txt", "bestiary.png"):
        (folder / name).write_text("old")
    dataset = make_dataset(tmp_path)
    pictures = best_and_worst(dataset, 2, tmp_path)
    offer_all(pictures, [4, 6])  # one of them has no quality
    assert [sheet.name for sheet in pictures.draw({}, []).pictures] == ["worst.png"]
    assert names(folder) == ["bestiary.png", "worst-9.png", "worst.png", "worst.txt"]
    assert best_and_worst(dataset, 2, tmp_path).draw({}, []).pictures == []
    assert names(folder) == ["bestiary.png", "worst-9.png", "worst.txt"]


def test_none_are_wanted(tmp_path):
    pictures = best_and_worst(make_dataset(tmp_path), 0, tmp_path)
    offer_all(pictures, range(NUM_IMAGES))
    assert pictures.draw({}, []).pictures == []
    assert not (tmp_path / "pictures").exists()


def test_semantic_predictions(tmp_path):
    def output(index):
        classes = panoptic_scene(index).panoptic // DIVISOR
        return {"sem_seg": torch.from_numpy(np.where(classes < 0, 6, classes))}

    pictures = best_and_worst(make_dataset(tmp_path), 1, tmp_path)
    offer_all(pictures, range(NUM_IMAGES), output)
    kept = _expand(*pictures._kept[min(pictures._kept)])
    assert (kept // pictures_module.DIVISOR == panoptic_scene(7).panoptic // DIVISOR).all()
    assert len(pictures.draw({}, []).pictures) == 2


def test_kept_maps_are_small_and_complete():
    panoptic = np.full((1024, 2048), -1)
    panoptic[300:, 100:900] = 18 * DIVISOR + 42
    data, shape = _compress(panoptic)
    assert len(data) < 100_000
    assert (_expand(data, shape) == panoptic).all()


def test_ground_truth_of_panoptic_and_semantic_records(tmp_path):
    ids = np.zeros((6, 8), np.uint32)
    ids[:2], ids[2:4] = 70000, 3
    Image.fromarray(id2rgb(ids)).save(tmp_path / "p.png")
    Image.fromarray(np.asarray([[0, 1, 255, 0]], np.uint8)).save(tmp_path / "s.png")
    segments = [{"id": 70000, "category_id": 1}, {"id": 3, "category_id": 0}]
    record = {"pan_seg_file_name": str(tmp_path / "p.png"), "segments_info": segments}
    divisor = pictures_module.DIVISOR
    car = divisor + 1
    assert _ground_truth(record, {1}, 255)[:, 0].tolist() == [car, car, 0, 0, -1, -1]
    semantic = {"sem_seg_file_name": str(tmp_path / "s.png")}
    assert _ground_truth(semantic, {1}, 255).tolist() == [[0, divisor, -1, 0]]
    assert _ground_truth(semantic, {1}, 1).tolist() == [[0, -1, 255 * divisor, 0]]


@pytest.mark.parametrize("divisor", [2_000, 2**23])
def test_maps_of_any_divisor_and_of_many_segments_are_drawn(tmp_path, divisor):
    ids = np.arange(1, 1201).reshape(30, 40)
    Image.fromarray(id2rgb(ids)).save(tmp_path / "p.png")
    record = {
        "pan_seg_file_name": str(tmp_path / "p.png"),
        "segments_info": [{"id": i, "category_id": 1} for i in range(1, 1201)],
    }
    pictures = best_and_worst(make_dataset(tmp_path), 1, tmp_path)
    predicted = torch.from_numpy(divisor + ids)
    output = {"panoptic_seg": (predicted, None), "label_divisor": divisor}
    assert np.array_equal(pictures._prediction(output), _ground_truth(record, {1}, 255))


HEIGHT, WIDTH = 20, 40
ROAD, CAR, BUS = 0, 1000, 2000


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


@pytest.fixture
def errors_of(record, tmp_path, monkeypatch):
    """The pictures and the caption of the worst image, which is the only one."""
    dataset = f"rows_{tmp_path.name}"
    DatasetCatalog.register(dataset, lambda: [record])
    MetadataCatalog.get(dataset).set(
        stuff_classes=["road-merged", "car", "bus"],
        stuff_colors=[(128, 64, 128), (0, 0, 142), (0, 60, 100)],
        thing_dataset_id_to_contiguous_id={1: 1, 2: 2},
        ignore_label=255,
    )
    shown = []
    save = pictures_module.save_sheet

    def spy(rows, headings, file, **options):
        shown.append((rows[0], options["captions"][0].split("  ·  ", 2)[2]))
        assert len(rows[0]) == len(headings) == 4
        save(rows, headings, file, **options)

    monkeypatch.setattr(pictures_module, "save_sheet", spy)

    def draw(output):
        pictures = best_and_worst(dataset, 1, tmp_path)
        pictures.on_image({"file_name": record["file_name"]}, output, 0.5)
        assert len(pictures.draw({}, []).pictures) == 1
        return shown[-1]

    yield draw
    DatasetCatalog.remove(dataset)
    MetadataCatalog.remove(dataset)


def panoptic(left, right):
    """Panoptic maps with road above, and these labels below."""
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    labels[10:, :20], labels[10:, 20:] = left, right
    return {"panoptic_seg": (torch.from_numpy(labels), None), "label_divisor": 1000}


def semantic(left, right):
    classes = panoptic(left, right)["panoptic_seg"][0] // 1000
    return {"sem_seg": torch.where(classes < 0, 3, classes)}


def expected_errors(kinds, names):
    grey = np.full((1, len(kinds), 3), 128, np.uint8)
    return draw_errors(grey, np.array([[names.index(kind) for kind in kinds]]), names)[0].tolist()


@pytest.mark.parametrize(
    ("output", "kinds", "names", "caption"),
    [
        (
            panoptic(-1, BUS + 1),  # the left car is missed, the right one a bus
            ("right", "missed", "mismatched"),
            PANOPTIC_KINDS,
            "1 of 3 segments found  ·  missed: 2 car  ·  false positives: 1 bus",
        ),
        (
            semantic(-1, BUS + 1),
            ("right", "wrong", "wrong"),
            SEMANTIC_KINDS,
            "50.0 % of pixels right",
        ),
        (
            panoptic(CAR + 1, CAR + 2),
            ("right", "right", "right"),
            PANOPTIC_KINDS,
            "3 of 3 segments found",
        ),
        (
            semantic(CAR + 1, CAR + 2),
            ("right", "right", "right"),
            SEMANTIC_KINDS,
            "100.0 % of pixels right",
        ),
    ],
)
def test_errors_of_an_image(errors_of, output, kinds, names, caption):
    pictures, words = errors_of(output)
    assert words == caption
    errors = pictures[-1]
    assert errors.shape == (HEIGHT, WIDTH, 3)
    places = [errors[y, x].tolist() for y, x in ((5, 5), (15, 10), (15, 30))]
    assert places == expected_errors(kinds, names)


def test_the_first_images_are_drawn_and_no_more(tmp_path):
    dataset = make_dataset(tmp_path)
    settings = EvaluationSettings(picture_count=2, best_and_worst=0, charts=False)
    pictures = EvaluationPictures(dataset, tmp_path, settings)
    offer_all(pictures, [4, 2, 0, 1])
    details = pictures.draw({}, [])
    assert details.pictures == [tmp_path / "predictions.png"]
    assert [sample.name for sample in details.samples] == ["4", "2"]
    wanted = [f"{name}_{kind}.jpg" for name in "24" for kind in ("image", "prediction", "truth")]
    assert names(tmp_path / "pictures" / "gallery") == wanted


@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 9])
def test_they_are_those_of_all_images_sorted(tmp_path, monkeypatch, count, number):
    dataset = make_dataset(tmp_path)
    monkeypatch.setattr(pictures_module, "_compress", lambda values: values)
    files = sorted(record["file_name"] for record in DatasetCatalog.get(dataset))
    output = {"panoptic_seg": (torch.zeros(2, 2), None), "label_divisor": 1000}
    draw = random.Random(number)
    for _ in range(5):
        keys = [(draw.choice([0.0, 0.25, 0.5, 1.0, draw.random()]), i) for i in range(number)]
        draw.shuffle(keys)
        pictures = best_and_worst(dataset, count, tmp_path)
        for quality, index in keys:
            pictures.on_image({"file_name": files[index]}, output, quality)
        ordered = sorted(keys)
        expected = ordered if number <= 2 * count else ordered[:count] + ordered[number - count :]
        if count:
            assert sorted(pictures._kept) == expected
        worst, best = _worst_and_best(expected, count)
        assert (worst, best) == _worst_and_best(keys, count)
        assert worst == ordered[: len(worst)]
        assert best == ordered[::-1][: len(best)]
        assert not set(worst) & set(best)
        assert len(worst) + len(best) == min(number, 2 * count)
        assert 0 <= len(worst) - len(best) <= 1


def test_of_equal_ones_the_first_image_is_worse():
    assert _worst_and_best([(0.5, 3), (0.5, 1), (0.5, 2)], 1) == ([(0.5, 1)], [(0.5, 3)])
