"""Colours for classes that have none: as far from each other as can be, always the same ones."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from panoptic_dl.classes import Color

STEPS = np.arange(40, 241, 25)  # of each channel; strong colours hide the picture below
LIGHTNESS = (30, 88)  # 0..100: neither like void, which is darkened, nor like outlines


def distinct_colors(number: int, taken: Sequence[Color] = ()) -> list[Color]:
    """Choose RGB colours one after another, each the farthest (CIELAB) from all before it.

    Args:
        number: how many, at most 300.
        taken: colours that are in use already.
    """
    candidates = np.stack(np.meshgrid(STEPS, STEPS, STEPS, indexing="ij"), -1).reshape(-1, 3)
    places = _lab(candidates)
    readable = (places[:, 0] > LIGHTNESS[0]) & (places[:, 0] < LIGHTNESS[1])
    candidates, places = candidates[readable], places[readable]
    distance = np.full(len(candidates), np.inf)
    for place in _lab(np.array([(128, 128, 128), *taken])):  # greys are nobody's colour
        distance = np.minimum(distance, ((places - place) ** 2).sum(1))
    chosen: list[Color] = []
    for _ in range(number):
        best = int(distance.argmax())
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, ((places - places[best]) ** 2).sum(1))
    return chosen


def _lab(colors: NDArray[np.integer]) -> NDArray[np.float32]:
    """CIELAB (N, 3) of RGB (N, 3) in 0..255; rounded, so that no machine chooses otherwise."""
    scaled = (colors[None] / 255).astype(np.float32)
    lab: NDArray[np.float32] = cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[0].round(2)
    return lab
