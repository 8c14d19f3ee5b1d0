"""Colours of classes and of the instances within a class."""

import colorsys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def class_colors(metadata: Any, num_classes: int) -> NDArray[np.uint8]:
    """RGB of every contiguous class id, (K, 3).

    The dataset's own colours where its Detectron2 metadata has them for all classes, else hues that
    are far apart for neighbouring ids.
    """
    for key in ("stuff_colors", "thing_colors"):
        colors = metadata.get(key, None)
        if colors is not None and len(colors) == num_classes:
            return np.asarray(colors, np.uint8)
    golden = 0.618033988749895
    hues = [(i * golden) % 1.0 for i in range(num_classes)]
    rgb = [colorsys.hsv_to_rgb(h, 0.65, 0.95 - 0.3 * (i % 2)) for i, h in enumerate(hues)]
    return (np.asarray(rgb) * 255).round().astype(np.uint8)


def instance_color(color: NDArray[np.uint8], instance: int) -> NDArray[np.uint8]:
    """A shade of a class's RGB colour (3,) that tells neighbouring instances apart."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255.0))
    turn = (instance * 0.618033988749895) % 1.0
    hue = (hue + 0.16 * (turn - 0.5)) % 1.0
    value = min(1.0, max(0.35, value + 0.45 * (((instance * 0.7548776662) % 1.0) - 0.35)))
    saturation = min(1.0, max(0.35, saturation))
    return (np.asarray(colorsys.hsv_to_rgb(hue, saturation, value)) * 255).astype(np.uint8)
