"""Lay pictures out in rows and columns with headings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (40, 40, 44), (250, 250, 248)


def save_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    headings: Sequence[str],
    file: Path,
    *,
    cell_width: int = 640,
    gap: int = 8,
) -> None:
    """Write a PNG with one row of pictures per entry, scaled to a common width.

    Args:
        rows: pictures (H, W, 3), RGB, 0..255; each row has one picture per heading, of one size.
        headings: above the columns.
        file: its folder is made when missing.
        cell_width, gap: in pixels.
    """
    scaled = []
    for row in rows:
        height = round(row[0].shape[0] * cell_width / row[0].shape[1])
        size = (cell_width, height)
        # Small pictures grow by whole pixels, so that labels stay sharp; large ones are averaged.
        how = Image.Resampling.NEAREST if row[0].shape[1] < cell_width else Image.Resampling.BOX
        scaled.append([Image.fromarray(picture).resize(size, how) for picture in row])
    head = 34
    width = len(headings) * (cell_width + gap) + gap
    height = head + sum(images[0].height + gap for images in scaled)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(18)
    for column, heading in enumerate(headings):
        x = gap + column * (cell_width + gap) + cell_width / 2
        draw.text((x, head / 2), heading, font=font, anchor="mm", fill=INK)
    y = head
    for images in scaled:
        for column, image in enumerate(images):
            sheet.paste(image, (gap + column * (cell_width + gap), y))
        y += images[0].height + gap
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
