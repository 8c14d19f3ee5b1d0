"""Colors, fonts and text boxes that all pictures share.

H W pixels, K classes. Colors are RGB, 0..255.
"""

import colorsys
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

INK, FAINT, PAPER = (40, 40, 44), (110, 110, 116), (250, 250, 248)  # text, remarks, background
GOLDEN_RATIO = 0.618033988749895  # its multiples, modulo 1, are far apart
SMALLEST_TEXT = 10  # pixels of a letter that can be read

_of_thread = threading.local()


def instance_color(color: NDArray[np.uint8], instance: int) -> NDArray[np.uint8]:
    """A shade of a class's color (3,) that tells neighboring instances apart."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255.0))
    turn = (instance * GOLDEN_RATIO) % 1.0
    hue = (hue + 0.16 * (turn - 0.5)) % 1.0
    value = min(1.0, max(0.35, value + 0.45 * (((instance * 0.7548776662) % 1.0) - 0.35)))
    saturation = min(1.0, max(0.35, saturation))
    return (np.asarray(colorsys.hsv_to_rgb(hue, saturation, value)) * 255).astype(np.uint8)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font; cached per thread, because FreeType's are not thread-safe."""
    fonts = _of_thread.__dict__.setdefault("fonts", {})
    if size not in fonts:
        fonts[size] = ImageFont.load_default(size)
    return fonts[size]  # type: ignore[no-any-return]


def text_width(text: str, size: int) -> float:
    """Width of a text in pixels."""
    return float(font(size).getlength(text))


def text_size(shape: Sequence[int]) -> int:
    """Pixels of letters for a picture (H, W, ...): a 52nd of the side of a square as large."""
    return max(SMALLEST_TEXT, round(math.sqrt(shape[0] * shape[1]) / 52))


def line_width(shape: Sequence[int]) -> int:
    """Pixels of a thin line in a picture (H, W, ...)."""
    return max(1, round(math.sqrt(shape[0] * shape[1]) / 800))


@dataclass(frozen=True)
class TextBox:
    """A text on a dark box with round corners, and a mark in a color at its left."""

    text: str
    size: int  # pixels of letters
    color: Color | None = None  # of the mark; None: no mark

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
        width = math.ceil(text_width(self.text, self.size)) + 2 * self.pad + self.mark
        return round(self.size * 1.5), width


PlacedBox = tuple[TextBox, int, int]
"""A text box, its top and its left in pixels."""


def place_caption(shape: Sequence[int], caption: str | None, size: int) -> list[PlacedBox]:
    """A caption a little off the upper left corner of a picture (H, W, ...); none without room."""
    box = TextBox(caption or "", size)
    high, wide = box.extent
    if not caption or high >= shape[0] or wide >= shape[1]:
        return []
    margin = size // 2
    return [(box, min(margin, shape[0] - high), min(margin, shape[1] - wide))]


def draw_text_boxes(picture: NDArray[np.uint8], boxes: Sequence[PlacedBox]) -> NDArray[np.uint8]:
    """Draw text boxes into a copy of a picture (H, W, 3)."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for box, top, left in boxes:
        height, width = box.extent
        radius = max(1, round(box.size * 0.3))
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=200)
        canvas.paste((16, 16, 20), (left, top), mask)
        if box.color is not None:
            inset = max(1, box.pad // 2)
            x, y = left + inset, top + inset
            bottom = top + height - inset - 1
            draw.rectangle((x, y, x + box.mark - 1, bottom), fill=_brighten(box.color))
        x_middle = left + box.pad + box.mark + (width - box.mark - 2 * box.pad) / 2
        place = x_middle, top + height / 2
        draw.text(place, box.text, font=font(box.size), anchor="mm", fill="white")
    return np.asarray(canvas)


def _brighten(color: Color) -> Color:
    """A color that stands out from the dark box: dark ones become brighter."""
    red, green, blue = color
    missing = max(0.0, 90 - (0.299 * red + 0.587 * green + 0.114 * blue)) / 255
    red, green, blue = (round(part + (255 - part) * missing) for part in color)
    return red, green, blue
