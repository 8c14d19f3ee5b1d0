"""Errors, heatmaps and offsets over images."""

import colorsys

import numpy as np
import pytest

from panoptic_dl.evaluation.error_map import PANOPTIC_KINDS, SEMANTIC_KINDS
from panoptic_dl.visualize.overlays import (
    TINTS,
    draw_centers,
    draw_errors,
    draw_offsets,
    error_legend,
)


@pytest.mark.parametrize("names", [PANOPTIC_KINDS, SEMANTIC_KINDS])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_each_kind_has_its_own_color_on_any_image(names, level):
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


def grey(*size):
    return np.full((*size, 3), 100, np.uint8)


def test_heat_glows_where_centres_are_and_directions_have_colors():
    center = np.zeros((40, 40), np.float32)
    center[20, 20], center[5, 5] = 1, 2  # above 1, too
    picture = draw_centers(grey(40, 40), center)
    assert picture[20, 20].astype(int).sum() > 3 * picture[30, 30].astype(int).sum()
    offset = np.zeros((2, 400, 400), np.float32)
    offset[1, :, :200], offset[1, :, 200:] = 50, -50  # to the right, to the left
    things = np.full((400, 400), 255, np.uint8)
    picture = draw_offsets(grey(400, 400), offset, things)
    assert np.argmax(picture[50, 50]) == 0  # red is to the right
    assert picture[300, 350, 0] < 100
    none = draw_offsets(grey(20, 20), offset[:, :20, :20], np.zeros((20, 20), np.uint8))
    assert (none == none[0, 0]).all()
