"""Paint the kinds of pixels, right and wrong ones, over an image without its colours.

The tints are those of Okabe and Ito, which colour-blind people can tell apart. What is right is
hardly tinted, what does not count is dark: errors are what the eye finds first.

H W pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
