"""Results of a prediction: they fit their image, and are drawn."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_dl import Predictor
from panoptic_dl.core.errors import DemoError
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


def test_offsets_are_in_pixels_of_the_image(predictor):
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
    image = torch.as_tensor(array.copy()).permute(2, 0, 1)
    with torch.no_grad():
        (output,) = semantic_run.model([{"image": image}])
    assert np.array_equal(result.semantic, output["sem_seg"].argmax(dim=0).numpy())
    assert result.draw().shape[1] == 256  # grown by a whole number
    with pytest.raises(DemoError, match="no view 'panoptic'"):
        result.draw("panoptic")
    with pytest.raises(DemoError, match="no centers"):
        Predictor.from_run(semantic_run.folder, device="cpu", branches=True)


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
