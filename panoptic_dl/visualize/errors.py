"""Paint the kinds of pixels, right and wrong ones, over an image without its colours.

The tints are those of Okabe and Ito, which colour-blind people can tell apart. What is right is
hardly tinted, what does not count is dark: errors are what the eye finds first.

H W pixels.

What Panoptic-DeepLab's branches say: the heatmap of centres, and the offsets to them.

H W pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.visualize.segmentation import line_width

# Kind: what a legend says, the tint and its opacity.
TINTS: dict[str, tuple[str, tuple[int, int, int], float]] = {
    "right": ("right", (0, 158, 115), 0.2),
    "wrong": ("wrong", (213, 94, 0), 0.72),
    "outline": ("outline of a match", (240, 228, 66), 0.72),
    "missed": ("missed", (0, 114, 178), 0.72),
    "false positive": ("false positive", (213, 94, 0), 0.72),
    "mismatched": ("missed and false positive (other class or cut)", (204, 121, 167), 0.72),
    "not counted": ("not counted", (24, 24, 28), 0.8),
}
GREY = 165  # of an image on average, for the legend


def draw_errors(
    image: NDArray[np.uint8], kinds: NDArray[np.integer], names: Sequence[str]
) -> NDArray[np.uint8]:
    """Tint a greyed image by the kinds of its pixels.

    Args:
        image: (H, W, 3) RGB, 0..255.
        kinds: (H, W), positions in `names`.
        names: of TINTS.

    Returns:
        (H, W, 3) RGB, 0..255.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    grey = 75 + grey * (180 / 255)  # neither black nor white, which would hide the tints
    colors = np.array([TINTS[name][1] for name in names], np.float32)[kinds]
    opacity = np.array([TINTS[name][2] for name in names], np.float32)[kinds][..., None]
    picture = grey[..., None] * (1 - opacity) + colors * opacity
    return picture.round().astype(np.uint8)


def error_legend(names: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    """Words and colour, as it appears over grey, of those TINTS that are in `names`."""
    legend = []
    for name, (words, tint, opacity) in TINTS.items():
        if name in names:
            red, green, blue = (round(GREY * (1 - opacity) + part * opacity) for part in tint)
            legend.append((words, (red, green, blue)))
    return legend


def draw_centers(image: NDArray[np.uint8], center: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Let a heatmap glow over a dark image.

    Args:
        image: (H, W, 3) RGB, 0..255.
        center: (H, W), about 0..1.
    """
    heat = np.clip(center, 0, 1)
    colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    # Faint heat is seen, too: the square root lifts it.
    opacity = cv2.merge([np.sqrt(heat, dtype=np.float32)] * 3)
    return (_dark(image) * (1 - opacity) + colors * opacity).astype(np.uint8)


def draw_offsets(
    image: NDArray[np.uint8], offset: NDArray[np.floating], things: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Show the way from each pixel of a thing to its centre, as a colour.

    The hue is the direction, as the wheel in the corner has it; a pixel is the stronger the farther
    it has to go.

    Args:
        image: (H, W, 3) RGB, 0..255.
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
    return _with_wheel(picture)


def _dark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.merge([(grey * np.float32(0.45)).astype(np.uint8)] * 3), np.uint8)


def _wheel_colors(
    y: NDArray[np.floating], x: NDArray[np.floating], strength: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """(n, 3) RGB of directions (n,), pale where the strength (0..1) is small."""
    hsv = np.empty((len(y), 1, 3), np.uint8)
    hsv[:, 0, 0] = (np.degrees(np.arctan2(y, x)) % 360) / 2 % 180
    hsv[:, 0, 1] = 40 + 215 * np.clip(strength, 0, 1)
    hsv[:, 0, 2] = 245
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)[:, 0]


def _with_wheel(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Directions and their colours, at the right below, where the picture is large enough."""
    height, width = picture.shape[:2]
    radius = min(height, width) // 11
    if radius < 10:
        return picture
    grid = np.arange(-radius, radius + 1)
    y, x = (part.ravel().astype(np.float32) for part in np.meshgrid(grid, grid, indexing="ij"))
    length = np.hypot(y, x)
    colors = _wheel_colors(y, x, length / radius).reshape(len(grid), len(grid), 3)
    disc = (length <= radius).reshape(len(grid), len(grid))
    margin = radius // 2
    top, left = height - margin - len(grid), width - margin - len(grid)
    picture[top : top + len(grid), left : left + len(grid)][disc] = colors[disc]
    cv2.circle(
        picture,
        (left + radius, top + radius),
        radius,
        (255, 255, 255),
        line_width(picture.shape),
        cv2.LINE_AA,
    )
    return picture
