"""Lay pictures out in rows and columns, with headings, captions and a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, FAINT, PAPER = (40, 40, 44), (110, 110, 116), (250, 250, 248)
LINE = 34  # height of headings, of a caption, of the title and legend, in pixels
GAP = 8

Color = tuple[int, int, int]


def save_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    headings: Sequence[str],
    file: Path,
    *,
    captions: Sequence[str] = (),
    title: str = "",
    legend: Sequence[tuple[str, Color]] = (),
    cell_width: int = 640,
    cell_height: int | None = None,
    gap: int = GAP,
) -> None:
    """Write a PNG with one row of pictures per entry, scaled to a common width.

    Args:
        rows: pictures (H, W, 3), RGB, 0..255; each row has one picture per heading, of one size.
        headings: above the columns.
        file: its folder is made when missing.
        captions: none, or one line above each row.
        title: at the top on the left.
        legend: at the top on the right: names and colours, RGB, 0..255.
        cell_width, gap: in pixels.
        cell_height: pictures that would be higher, in pixels, are made narrower.
    """
    scaled = []
    for row in rows:
        size = fit(row[0].shape, cell_width, cell_height)
        # Small pictures grow by whole pixels, so that labels stay sharp; large ones are averaged.
        how = Image.Resampling.NEAREST if row[0].shape[1] < size[0] else Image.Resampling.BOX
        scaled.append([Image.fromarray(picture).resize(size, how) for picture in row])
    head = LINE * (2 if title or legend else 1)
    above = LINE if captions else 0
    width = len(headings) * (cell_width + gap) + gap
    height = head + sum(above + images[0].height + gap for images in scaled)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title or legend:
        _write_legend(draw, legend, right=width - gap)
        draw.text((gap, LINE / 2), title, font=_font(20), anchor="lm", fill=INK)
    for column, heading in enumerate(headings):
        x = gap + column * (cell_width + gap) + cell_width / 2
        draw.text((x, head - LINE / 2), heading, font=_font(18), anchor="mm", fill=INK)
    y = head
    for index, images in enumerate(scaled):
        if captions:
            text = _shortened(captions[index], _font(18), width - 2 * gap)
            draw.text((gap, y + LINE / 2), text, font=_font(18), anchor="lm", fill=INK)
            y += LINE
        for column, image in enumerate(images):
            x = gap + column * (cell_width + gap) + (cell_width - image.width) // 2
            sheet.paste(image, (x, y))
        y += images[0].height + gap
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


def join_sheets(files: Sequence[Path], file: Path) -> None:
    """Put the rows of several sheets below the head of the first, in one PNG.

    Args:
        files: at least one; written by `save_sheet` with the same headings, cell width, title and
            legend.
        file: the PNG to write.
    """
    sheets = []
    for source in files:
        with Image.open(source) as image:
            sheets.append(image.convert("RGB"))
    head = 2 * LINE
    height = head + sum(sheet.height - head for sheet in sheets)
    joined = Image.new("RGB", (sheets[0].width, height), PAPER)
    joined.paste(sheets[0])
    y = sheets[0].height
    for sheet in sheets[1:]:
        joined.paste(sheet.crop((0, head, sheet.width, sheet.height)), (0, y))
        y += sheet.height - head
    joined.save(file)


def fit(shape: Sequence[int], width: int, height: int | None = None) -> tuple[int, int]:
    """The (width, height) in pixels at which a picture (H, W, ...) fills a cell."""
    high, wide = shape[:2]
    if height is not None and high * width > height * wide:
        return max(1, round(wide * height / high)), height
    return width, max(1, round(high * width / wide))


def _write_legend(
    draw: ImageDraw.ImageDraw, legend: Sequence[tuple[str, Color]], right: float
) -> None:
    """Coloured squares, each before its name, that end at `right`."""
    side, font = 18, _font(18)
    x = right
    for name, color in reversed(legend):
        x -= draw.textlength(name, font=font)
        draw.text((x, LINE / 2), name, font=font, anchor="lm", fill=INK)
        x -= side + 7
        box = (x, (LINE - side) / 2, x + side, (LINE + side) / 2)
        draw.rectangle(box, fill=color, outline=FAINT)
        x -= 26


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _shortened(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """The text, cut at a word when it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    words = text.split(" ")
    while len(words) > 1 and font.getlength(" ".join(words) + " ...") > width:
        words.pop()
    return " ".join(words) + " ..."
