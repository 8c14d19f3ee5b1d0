"""Results of a prediction: they fit their image, and are drawn."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panopticapi.utils import rgb2id
from PIL import Image

from panoptic_dl import Predictor
from panoptic_dl.core.errors import DemoError
from panoptic_dl.runtime.result import _in_cells
from panoptic_dl.visualize.segmentation import SegmentTable
from panoptic_dl.visualize.style import PAPER
from tests.demo.samples import scene

SIZES = [(1, 1), (1, 500), (500, 1), (5, 7), (31, 32), (20, 3000), (3000, 20), (33, 47)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_any_size_gives_a_picture(request, task, size):
    run = request.getfixturevalue(f"{task}_run")
    for maps in ("network", "image"):
        result = Predictor.from_run(run.folder, device="cpu", maps=maps)(scene(*size))
        assert result.semantic.shape == size
        assert result.semantic.max() < 19
        picture = result.draw()
        assert picture.dtype == np.uint8
        assert picture.shape[0] >= size[0]
        assert picture.shape[1] >= size[1]


@given(st.integers(1, 150), st.integers(1, 150))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_results_fit_the_image(predictor, height, width):
    result = predictor(scene(height, width))
    assert result.panoptic.shape == result.semantic.shape == result.center.shape == (height, width)
    assert result.offset.shape == (2, height, width)
    assert sum(s.area for s in result.segments) == (result.panoptic >= 0).sum()
    for segment in result.segments:
        rows, columns = np.nonzero(result.mask(segment))
        assert segment.area == len(rows)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert segment.box == box
        assert segment.is_thing == (segment.category >= 11) == (segment.score is not None)
        assert segment.name == result.classes.names[segment.category]
    scores = [segment.score for segment in result.instances]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("scaled", [False, True])
def test_offsets_are_in_pixels_of_the_image(predictor, monkeypatch, scaled):
    monkeypatch.setattr(predictor.model, "scale_offsets", scaled)
    small = scene(64, 128)
    large = np.asarray(Image.fromarray(small).resize((256, 128), Image.Resampling.NEAREST))
    at_test_size, enlarged = predictor(small), predictor(large)
    ratio = np.abs(enlarged.offset).mean() / np.abs(at_test_size.offset).mean()
    assert 1.6 < ratio < 2.4


def test_a_semantic_model_has_classes_alone(semantic_run):
    predictor = Predictor.from_run(semantic_run.folder, device="cpu")
    array = scene(64, 128)
    result = predictor(array)
    assert result.panoptic is None
    assert result.segments == result.instances == []
    with pytest.raises(DemoError, match="no segments for COCO's format"):
        result.to_coco()
    image = torch.as_tensor(array.copy()).permute(2, 0, 1)
    with torch.no_grad():
        (output,) = semantic_run.model([{"image": image}])
    assert np.array_equal(result.semantic, output["sem_seg"].argmax(dim=0).numpy())
    assert result.draw().shape[1] == 240  # wide enough for the legend
    with pytest.raises(DemoError, match="no view 'panoptic'"):
        result.draw("panoptic")
    with pytest.raises(DemoError, match="no centers"):
        Predictor.from_run(semantic_run.folder, device="cpu", branches=True)


def test_a_result_is_saved_as_a_picture_or_in_coco_format(predictor, tmp_path):
    result = predictor(scene(64, 128))
    for name in ("a.png", "b.JPG"):
        result.save(tmp_path / "new" / name, views="instances")
    drawn = result.draw("instances")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), drawn)
    assert Image.open(tmp_path / "new" / "b.JPG").size == drawn.shape[1::-1]
    result.save(tmp_path / "c.png")  # a drawing, or the image itself, stays as it is
    before = (tmp_path / "c.png").read_bytes()
    result.save(str(tmp_path / "c.json"))
    assert (tmp_path / "c.png").read_bytes() == before
    content = json.loads((tmp_path / "c.json").read_text())
    annotation, pixels = result.to_coco("c")
    assert content["annotations"] == [annotation]
    assert content["categories"][11]["id"] == 24  # person, of Cityscapes
    ids = rgb2id(np.asarray(Image.open(tmp_path / "c" / annotation["file_name"])))
    assert np.array_equal(ids, rgb2id(pixels))
    segments = {segment["id"]: segment for segment in annotation["segments_info"]}
    assert set(np.unique(ids)) - {0} == set(segments)
    for segment in result.segments:
        (number,) = np.unique(ids[result.mask(segment)])
        of_coco = segments[number]
        assert of_coco["category_id"] == content["categories"][segment.category]["id"]
        assert of_coco["area"] == segment.area
        assert of_coco.get("score", None) == pytest.approx(segment.score, abs=1e-6)
    with pytest.raises(DemoError, match=r"cannot save a result as d\.gif: choose \.jpg"):
        result.save(tmp_path / "d.gif")


def test_ids_beyond_three_bytes_are_counted(predictor):
    result = predictor(scene(64, 128))
    larger = 10_000_000
    panoptic = np.where(result.panoptic < 0, -1, result.panoptic // 1000 * larger)
    segments = SegmentTable.of(panoptic).ids
    ids = {int(i) for i in segments if i >= 0}
    wide = replace(
        result,
        panoptic=panoptic,
        label_divisor=larger,
        segments=[replace(s, id=s.category * larger) for s in result.segments if s.id % 1000 == 0],
    )
    annotation, pixels = wide.to_coco()
    assert max(ids) >= 256**3
    assert sorted(s["id"] for s in annotation["segments_info"]) == list(
        range(1, len(wide.segments) + 1)
    )
    assert rgb2id(pixels).max() == len(ids)


@pytest.mark.parametrize("shape", [(80, 60), (60, 80), (90, 30), (30, 90), (50, 50)])
@pytest.mark.parametrize("number", [2, 3, 4, 5, 6])
def test_little_of_a_sheet_is_empty(shape, number):
    cells = [np.zeros((*shape, 3), np.uint8)] * number
    height, width, _ = _in_cells(cells).shape
    share = number * shape[0] * shape[1] / (height * width)
    assert share > 0.75  # with gaps; one of six cells may be empty
    assert 0.3 < width / height < 9


def test_drawing_refuses_what_it_cannot_draw(panoptic_run):
    result = Predictor.from_run(panoptic_run.folder, device="cpu")(scene(64, 128))
    with pytest.raises(DemoError, match="there is no view 'depth'; choose from panoptic"):
        result.draw("depth")
    with pytest.raises(DemoError, match="branches=True"):
        result.draw("center")
    with pytest.raises(ValueError, match="overlay takes one view"):
        result.draw(["panoptic", "semantic"])
    with pytest.raises(DemoError, match="name each once"):
        result.draw(["semantic", "semantic"], layout="side_by_side")


def test_a_notebook_shows_a_picture_and_no_walls_of_numbers(predictor):
    result = predictor(scene(80, 2000))
    assert repr(predictor).startswith("Predictor(PanopticDeepLab, ")
    assert repr(result).startswith("PanopticResult(80 x 2000 pixels")
    assert all(f" {segment.name}" in repr(result) for segment in result.segments)
    with Image.open(io.BytesIO(result._repr_png_())) as picture:
        assert picture.width == 1600
    prepared = predictor.prepare(scene(80, 90))
    (output,) = predictor.predict([prepared])
    assert "array" not in repr(prepared) + repr(output)


def test_the_legend_fills_the_field_that_would_be_empty(predictor):
    result = predictor(scene(256, 512))
    views = ["panoptic", "instances", "center", "offset"]
    height, width, _ = result.draw(views, layout="side_by_side").shape
    assert (height, width) == (3 * 256 + 2 * 3, 2 * 512 + 3)
    bare = result.draw(views, layout="side_by_side", legend=False)
    assert bare.shape == (height, width, 3)
    assert (bare[-256:, -512:] == PAPER).all()
    assert (result.draw(views, layout="side_by_side")[-256:, -512:] != PAPER).any()
    pair = result.draw("panoptic", layout="side_by_side")
    assert len(pair) > 2 * 256 + 3  # two pictures leave no field: the legend is below
