"""The classes of a picture, named below it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .sheet import FAINT, INK, PAPER, Color
from .writing import font, text_size


def legend_strip(entries: Sequence[tuple[str, Color]], width: int, size: int) -> NDArray[np.uint8]:
    """Coloured squares, each before its name, in as many lines as it takes.

    Args:
        entries: names and colours, RGB, 0..255.
        width: of the strip in pixels; a name that is wider is cut at its edge.
        size: of letters in pixels.

    Returns:
        (H, width, 3) RGB; H is 0 without entries.
    """
    letters = font(size)
    line, side, gap = round(size * 1.7), round(size * 1.0), round(size * 1.2)
    placed, x, y = [], gap // 2, 0
    for name, color in entries:
        needed = side + round(size * 0.4) + int(letters.getlength(name)) + 1
        if x > gap // 2 and x + needed > width - gap // 2:
            x, y = gap // 2, y + line
        placed.append((name, color, x, y))
        x += needed + gap
    if not placed:
        return np.zeros((0, width, 3), np.uint8)
    margin = size // 3
    strip = Image.new("RGB", (width, y + line + 2 * margin), PAPER)
    draw = ImageDraw.Draw(strip)
    for name, color, x, y in placed:
        middle = margin + y + line / 2
        box = (x, middle - side / 2, x + side, middle + side / 2)
        draw.rounded_rectangle(box, max(1, side // 5), fill=color, outline=FAINT)
        draw.text((x + side + round(size * 0.4), middle), name, font=letters, anchor="lm", fill=INK)
    return np.asarray(strip)


def with_legend(
    picture: NDArray[np.uint8],
    entries: Sequence[tuple[str, Color]],
    size: int | None = None,
    narrowest: int = 240,
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with a legend below it.

    Args:
        entries: names and colours; without any, the picture itself is returned.
        size: of letters in pixels; None: what suits the picture.
        narrowest: width in pixels to which narrower pictures are filled up, for names to fit.
    """
    if not entries:
        return picture
    height, width = picture.shape[:2]
    wide = max(width, narrowest)
    strip = legend_strip(entries, wide, size or text_size(picture.shape))
    sheet = np.empty((height + len(strip), wide, 3), np.uint8)
    sheet[:] = PAPER
    left = (wide - width) // 2
    sheet[:height, left : left + width] = picture
    sheet[height:] = strip
    return sheet
