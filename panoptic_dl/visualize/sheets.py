"""Pictures in rows and columns with headings, captions and a legend; samples and a gallery.

H W pixels. Pictures are (H, W, 3) RGB, 0..255.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from panoptic_dl.core.files import file_name_text
from panoptic_dl.visualize.style import FAINT, INK, PAPER, Color, font, text_size, text_width

LINE = 34  # height of headings, of a caption, of the title and legend, in pixels
GAP, LETTER = 8, 11  # and the width of a letter of a caption, about
HIGHEST = 2  # times their width are cells: strips are narrower
NARROWEST = 240  # pixels that a picture with a legend is filled up to, for names to fit
GALLERY_KINDS = ("image", "truth", "prediction")  # names of files
HEADINGS = ("image", "ground truth", "prediction")
GALLERY_SIDE = 640  # pixels of a gallery picture's longer side
GALLERY_QUALITY = 88  # of JPEG: names in the pictures stay legible


def save_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    headings: Sequence[str],
    file: Path,
    *,
    captions: Sequence[str] = (),
    title: str = "",
    legend: Sequence[tuple[str, Color]] = (),
    cell_width: int = 640,
) -> None:
    """Write a PNG with one row of pictures per entry, scaled to a common width.

    Args:
        rows: pictures (H, W, 3), RGB, 0..255; those of a row get the size of its first.
        headings: above the columns; or one for each picture of all rows, above it.
        file: its folder is made when missing.
        captions: none, or one line above each row.
        title: at the top on the left.
        legend: names and colors, below it all.
        cell_width: in pixels, which pictures fill; see `fit`.
    """
    scaled: list[list[Image.Image]] = []
    for row in rows:
        size = fit(row[0].shape, cell_width)
        scaled.append([])
        for picture in row:  # small ones stay sharp, large ones are averaged
            how = Image.Resampling.NEAREST if picture.shape[1] < size[0] else Image.Resampling.BOX
            scaled[-1].append(Image.fromarray(picture).resize(size, how))
    columns = len(rows[0])
    head = LINE * (2 if title else 1)
    above = [
        LINE * (bool(captions) + (i > 0 and len(headings) > columns)) for i in range(len(rows))
    ]
    width = columns * (cell_width + GAP) + GAP
    height = head + sum(above) + sum(images[0].height + GAP for images in scaled)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, LINE / 2), title, font=font(20), anchor="lm", fill=INK)
    y = head
    for index, images in enumerate(scaled):
        if captions:
            text = shorten(captions[index], (width - 2 * GAP) // LETTER, placeholder=" ...")
            draw.text((GAP, y + LINE / 2), text, font=font(18), anchor="lm", fill=INK)
        y += above[index]
        for column, heading in enumerate(headings[index * columns : (index + 1) * columns]):
            x = GAP + column * (cell_width + GAP) + cell_width / 2
            line = (y if index else head) - LINE / 2
            draw.text((x, line), heading, font=font(18), anchor="mm", fill=INK)
        for column, image in enumerate(images):
            x = GAP + column * (cell_width + GAP) + (cell_width - image.width) // 2
            sheet.paste(image, (x, y))
        y += images[0].height + GAP
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(with_legend(np.asarray(sheet), legend, 18)).save(file)


def fit(shape: Sequence[int], width: int) -> tuple[int, int]:
    """The (width, height) in pixels at which a picture (H, W, ...) fills a cell; or its height."""
    high, wide = shape[:2]
    scale = min(width / wide, HIGHEST * width / high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def legend_strip(entries: Sequence[tuple[str, Color]], width: int, size: int) -> NDArray[np.uint8]:
    """Colored squares, each before its name, in as many lines as it takes: (H, width, 3)."""
    line, side, gap = round(size * 1.7), round(size * 1.0), round(size * 1.2)
    placed, x, y = [], gap // 2, 0
    for name, color in entries:
        needed = side + round(size * 0.4) + int(text_width(name, size)) + 1
        if x > gap // 2 and x + needed > width - gap // 2:
            x, y = gap // 2, y + line
        placed.append((name, color, x, y))
        x += needed + gap
    margin = size // 3
    strip = Image.new("RGB", (width, y + line + 2 * margin), PAPER)
    draw = ImageDraw.Draw(strip)
    for name, color, x, y in placed:
        middle = margin + y + line / 2
        box = (x, middle - side / 2, x + side, middle + side / 2)
        draw.rounded_rectangle(box, max(1, side // 5), fill=color, outline=FAINT)
        draw.text(
            (x + side + round(size * 0.4), middle), name, font=font(size), anchor="lm", fill=INK
        )
    return np.asarray(strip)


def with_legend(
    picture: NDArray[np.uint8], entries: Sequence[tuple[str, Color]], size: int | None = None
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with names and colors below it, if any; letters of `size` pixels."""
    if not entries:
        return picture
    height, width = picture.shape[:2]
    wide = max(width, NARROWEST)
    strip = legend_strip(entries, wide, size or text_size(picture.shape))
    sheet = np.empty((height + len(strip), wide, 3), np.uint8)
    sheet[:] = PAPER
    left = (wide - width) // 2
    sheet[:height, left : left + width] = picture
    sheet[height:] = strip
    return sheet


@dataclass(frozen=True)
class Sample:
    """An image, its ground truth and its prediction, drawn: (H, W, 3)."""

    name: str
    image: NDArray[np.uint8]
    ground_truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def resize_map(values: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.int64]:
    """A map (H, W) at `size`, (width, height), of the pixels nearest to the new ones' centers."""
    image = Image.fromarray(values.astype(np.int32))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST)).astype(np.int64)


def save_gallery(
    names: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], folder: Path
) -> None:
    """Write `<name>_image.jpg`, `<name>_truth.jpg` and `<name>_prediction.jpg` of each row.

    A name that comes again gets a number. `folder` is made when missing; pictures of an earlier
    evaluation are deleted.
    """
    clear_gallery(folder)
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for name, row in zip(names, rows, strict=True):
        stem = wanted = file_name_text(name)
        number = 1
        while wanted in taken:
            number += 1
            wanted = f"{stem}-{number}"
        taken.add(wanted)
        for kind, picture in zip(GALLERY_KINDS, row, strict=True):
            image = Image.fromarray(picture)
            image.thumbnail((GALLERY_SIDE, GALLERY_SIDE), Image.Resampling.LANCZOS)
            image.save(folder / f"{wanted}_{kind}.jpg", quality=GALLERY_QUALITY)


def clear_gallery(folder: Path) -> None:
    """Delete the pictures of an earlier evaluation, and the folder if it held nothing else."""
    for kind in GALLERY_KINDS:
        for file in folder.glob(f"*_{kind}.jpg"):
            file.unlink()
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()
