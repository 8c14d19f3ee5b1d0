"""Maps of numbers or kinds over an image: errors, and what Panoptic-DeepLab's branches predict.

H W pixels. Images are (H, W, 3) RGB, 0..255.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.visualize.style import Color

# Kind of pixel: its name in legends, the tint and its opacity. The tints are those of Okabe and
# Ito, which color-blind people can tell apart. What is right is hardly tinted, what does not count
# is dark: errors are what the eye finds first.
TINTS: dict[str, tuple[str, Color, float]] = {
    "right": ("right", (0, 158, 115), 0.2),
    "wrong": ("wrong", (213, 94, 0), 0.72),
    "outline": ("outline of a match", (240, 228, 66), 0.72),
    "missed": ("missed", (0, 114, 178), 0.72),
    "false positive": ("false positive", (213, 94, 0), 0.72),
    "mismatched": ("missed and false positive (other class or cut)", (204, 121, 167), 0.72),
    "not counted": ("not counted", (24, 24, 28), 0.8),
}
GRAY = 165  # of an image on average, for the legend


def draw_errors(
    image: NDArray[np.uint8], kinds: NDArray[np.integer], names: Sequence[str]
) -> NDArray[np.uint8]:
    """Tint a gray image by the kinds of its pixels, (H, W) positions in `names`, keys of TINTS."""
    gray = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    gray = 75 + gray * (180 / 255)  # neither black nor white, which would hide the tints
    colors = np.array([TINTS[name][1] for name in names], np.float32)[kinds]
    opacity = np.array([TINTS[name][2] for name in names], np.float32)[kinds][..., None]
    picture = gray[..., None] * (1 - opacity) + colors * opacity
    return picture.round().astype(np.uint8)


def error_legend(names: Sequence[str]) -> list[tuple[str, Color]]:
    """Text and color, as it appears over gray, of those TINTS that are in `names`."""
    legend = []
    for name, (text, tint, opacity) in TINTS.items():
        if name in names:
            red, green, blue = (round(GRAY * (1 - opacity) + part * opacity) for part in tint)
            legend.append((text, (red, green, blue)))
    return legend


def draw_centers(image: NDArray[np.uint8], center: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw a heatmap, (H, W) of about 0..1, over the darkened image."""
    heat = np.clip(center, 0, 1)
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    # Faint heat is visible, too: the square root lifts it.
    opacity = cv2.merge([np.sqrt(heat, dtype=np.float32)] * 3)
    return (_dark(image) * (1 - opacity) + colors * opacity).astype(np.uint8)


def draw_offsets(
    image: NDArray[np.uint8], offset: NDArray[np.floating], things: NDArray[np.generic]
) -> NDArray[np.uint8]:
    """Draw the offset from each pixel of a thing to its center as a color.

    The hue is the direction; saturation grows with the length.

    Args:
        offset: (2, H, W) (y, x) in pixels.
        things: (H, W) mask, not 0 where things are.
    """
    picture = _dark(image)
    inside = things.astype(bool)
    y, x = offset[0][inside], offset[1][inside]
    if y.size:
        length = np.hypot(y, x)
        farthest = max(float(np.percentile(length, 98)), 1e-6)
        picture[inside] = _wheel_colors(y, x, length / farthest)
    return picture


def _dark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.merge([(gray * np.float32(0.45)).astype(np.uint8)] * 3), np.uint8)


def _wheel_colors(
    y: NDArray[np.floating], x: NDArray[np.floating], strength: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """(n, 3) RGB of directions (n,), pale where the strength (0..1) is small."""
    hsv = np.empty((len(y), 1, 3), np.uint8)
    hsv[:, 0, 0] = (np.degrees(np.arctan2(y, x)) % 360) / 2 % 180
    hsv[:, 0, 1] = 40 + 215 * np.clip(strength, 0, 1)
    hsv[:, 0, 2] = 245
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)[:, 0]
