"""Text in pictures: fonts, and sizes that suit a picture's.

H W pixels.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SMALLEST = 10  # pixels of a letter that can be read

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_of_thread = threading.local()


def font(size: int) -> Font:
    """Pillow's own font; each thread has its own, for FreeType's are not for several at once."""
    fonts: dict[int, Font] = _of_thread.__dict__.setdefault("fonts", {})
    if size not in fonts:
        fonts[size] = ImageFont.load_default(size)
    return fonts[size]


def text_size(shape: Sequence[int]) -> int:
    """Pixels of letters for a picture (H, W, ...): a 52nd of the side of a square as large."""
    return max(SMALLEST, round(math.sqrt(shape[0] * shape[1]) / 52))


def line_width(shape: Sequence[int]) -> int:
    """Pixels of a thin line in a picture (H, W, ...)."""
    return max(1, round(math.sqrt(shape[0] * shape[1]) / 800))


@dataclass(frozen=True)
class Plate:
    """A text on a dark plate with round corners, and a mark in a colour at its left."""

    text: str
    size: int  # pixels of letters
    color: tuple[int, int, int] | None = None  # RGB of the mark; None: no mark

    @property
    def pad(self) -> int:
        return max(2, round(self.size * 0.32))

    @property
    def mark(self) -> int:
        """Width of the mark in pixels."""
        return 0 if self.color is None else max(2, round(self.size * 0.28))

    @property
    def extent(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        width = math.ceil(font(self.size).getlength(self.text)) + 2 * self.pad + self.mark
        return round(self.size * 1.5), width


def corner(shape: Sequence[int], plate: Plate) -> tuple[int, int]:
    """(top, left) of a caption: a little off the upper left corner, if there is room."""
    margin = plate.size // 2
    high, wide = plate.extent
    return min(margin, shape[0] - high), min(margin, shape[1] - wide)


def _lifted(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour that can be told from the dark plate: dark ones become brighter."""
    red, green, blue = color
    missing = max(0.0, 90 - (0.299 * red + 0.587 * green + 0.114 * blue)) / 255
    red, green, blue = (round(part + (255 - part) * missing) for part in color)
    return red, green, blue


def write_plates(
    picture: NDArray[np.uint8], plates: Sequence[tuple[Plate, int, int]]
) -> NDArray[np.uint8]:
    """Draw plates into a picture (H, W, 3), each with its top and left in pixels; return a copy."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for plate, top, left in plates:
        height, width = plate.extent
        radius = max(1, round(plate.size * 0.3))
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=200)
        canvas.paste((16, 16, 20), (left, top), mask)
        if plate.color is not None:
            inset = max(1, plate.pad // 2)
            draw.rectangle(
                (
                    *(left + inset, top + inset),
                    *(left + inset + plate.mark - 1, top + height - inset - 1),
                ),
                fill=_lifted(plate.color),
            )
        x = left + plate.pad + plate.mark + (width - plate.mark - 2 * plate.pad) / 2
        draw.text(
            (x, top + height / 2), plate.text, font=font(plate.size), anchor="mm", fill="white"
        )
    return np.asarray(canvas)
