"""Lay pictures out in rows and columns, with headings, captions and a legend.

One training sample in one picture: the image that the network sees and what it is to learn.

Shapes: H W pixels, K classes.

Images with maps of their classes, of a size to be sent somewhere.

H W pixels.

Single pictures of an evaluation's first images, for pages that show several runs side by side.

H W pixels.

The classes of a picture, named below it.
"""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from panoptic_dl.visualize.segmentation import Color, font, text_size

INK, FAINT, PAPER = (40, 40, 44), (110, 110, 116), (250, 250, 248)
LINE = 34  # height of headings, of a caption, of the title and legend, in pixels
GAP = 8


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


Picture = NDArray[np.uint8]  # (H, W, 3) RGB

HEAT = np.array([255, 225, 60], np.float32)
LEFT_OUT = np.array([150, 20, 30], np.float32)
WHITE_WEIGHT = 3.0  # the least weight that is drawn white
COLUMNS, NARROWEST = 3, 480  # of the sheet; pixels of a column
LARGEST = {2: (960, 720), 3: (640, 640)}  # width and height of a panel in pixels, by columns


class Classes(Protocol):
    """Names and RGB colours of the K classes; see `panoptic_dl.core.classes`."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def colors(self) -> tuple[Color, ...]: ...


def save_sample(
    sample: dict[str, Any], file: Path, classes: Classes, *, ignore_label: int, image_format: str
) -> None:
    """Write a PNG of a sample's panels, with a caption and the colours of its largest classes.

    Args:
        sample: of the training mappers; see `panels`. "file_name", "height" and "width" are those
            of the image's file.
        file: its folder is made when missing.
        classes, ignore_label, image_format: see `panels`.
    """
    pictures = panels(sample, classes, ignore_label=ignore_label, image_format=image_format)
    columns = min(COLUMNS, len(pictures))
    size = fit(next(iter(pictures.values())).shape, *LARGEST[columns])
    cell_width = max(size[0], NARROWEST)
    cells = [_cell(picture, size, cell_width) for picture in pictures.values()]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    headings = list(pictures)
    for row, first in zip(rows[1:], range(columns, len(cells), columns), strict=True):
        row[:] = [
            np.concatenate([_heading(text, cell_width, wheel="offsets" in text), cell])
            for text, cell in zip(headings[first:], row, strict=True)
        ]
    width = columns * (cell_width + GAP) + GAP
    title = _caption(sample, width - 2 * GAP)
    room = width - 2 * GAP - _length(title, 20)
    save_sheet(
        rows,
        headings[:columns],
        file,
        title=title,
        legend=_legend(sample["sem_seg"].numpy(), classes, room),
        cell_width=cell_width,
    )


def panels(
    sample: dict[str, Any], classes: Classes, *, ignore_label: int, image_format: str
) -> dict[str, Picture]:
    """Pictures (H, W, 3) by what they show: the image and labels; with centres four more.

    Args:
        sample: "image" (3, H, W) uint8 and "sem_seg" (H, W); of the panoptic task also
            "sem_seg_weights" (H, W), "center" (H, W), "center_weights" (1, H, W), "offset"
            (2, H, W) in pixels, y before x, "offset_weights" (1, H, W).
        classes: of the labels.
        ignore_label: of pixels without a label.
        image_format: channel order of the image, RGB or BGR.

    Raises:
        ValueError: a label is neither one of the classes nor `ignore_label`.
    """
    image = sample["image"].permute(1, 2, 0).numpy()
    image = image[..., ::-1] if image_format == "BGR" else image
    labels = sample["sem_seg"].numpy()
    ignored = labels == ignore_label
    strange = labels[~ignored & ((labels < 0) | (labels >= len(classes.names)))]
    if strange.size:
        raise ValueError(
            f"{sample['file_name']} has the label {strange[0]}, and there are {len(classes.names)} "
            "classes: dataset.num_classes and dataset.classes do not agree"
        )
    colors = np.array([*classes.colors, (0, 0, 0)], np.uint8)
    found = {
        "image": np.ascontiguousarray(image),
        "labels (black: ignored)": colors[np.where(ignored, len(classes.names), labels)],
    }
    if "center" not in sample:
        return found
    weights = np.where(ignored, 0, sample["sem_seg_weights"].numpy())
    offset = sample["offset"].numpy()
    longest = float(np.hypot(*offset).max())
    return found | {
        f"weights of the semantic loss, dark to bright: {_values(weights)}": _gray(
            weights, max(WHITE_WEIGHT, float(weights.max()))
        ),
        "centre heatmap (red: left out of the loss)": _heatmap(
            image, sample["center"].numpy(), sample["center_weights"][0].numpy()
        ),
        f"offsets, up to {longest:.0f} pixels; those of a disc:": draw_offsets(offset),
        "weights of the offset loss, dark to bright: "
        f"{_values(sample['offset_weights'].numpy())}": _gray(
            sample["offset_weights"][0].numpy(), 1.0
        ),
    }


def draw_offsets(offset: NDArray[np.floating]) -> Picture:
    """A field (2, H, W) of (y, x): direction is hue, length brightness; black where there is none.

    Brightness grows with the root of the length, and the longest is the brightest, so that small
    instances are seen beside large ones.
    """
    y, x = offset
    length = np.hypot(y, x)
    bright = np.sqrt(length / max(float(length.max()), 1e-9))
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    value = np.where(length > 0, 0.35 + 0.65 * bright, 0)
    rgb = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.9), value], axis=-1))
    return (rgb * 255).round().astype(np.uint8)


def _heatmap(
    image: Picture, center: NDArray[np.floating], weights: NDArray[np.floating]
) -> Picture:
    """Peaks over the darkened image; where the loss does not look, that is red."""
    dark = np.repeat(image.mean(axis=2, keepdims=True) * 0.4, 3, axis=2)
    dark[weights == 0] = dark[weights == 0] * 0.5 + LEFT_OUT * 0.5
    heat = center[..., None].clip(0, 1)
    return (dark * (1 - heat) + HEAT * heat).round().astype(np.uint8)


def _gray(weights: NDArray[np.floating], white: float) -> Picture:
    """Black for a weight of 0; `white` is the weight that is white."""
    return np.repeat((weights / white * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _values(weights: NDArray[np.floating]) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(weights)[:6])


def _cell(picture: Picture, size: tuple[int, int], width: int) -> Picture:
    """Scaled to `size` (width, height), in the middle of a cell so wide."""
    how = Image.Resampling.NEAREST if picture.shape[1] < size[0] else Image.Resampling.BOX
    cell = Image.new("RGB", (width, size[1]), PAPER)
    cell.paste(Image.fromarray(picture).resize(size, how), ((width - size[0]) // 2, 0))
    return np.asarray(cell)


def _heading(text: str, width: int, *, wheel: bool) -> Picture:
    """A strip like the sheet's own headings; with the offsets of a disc as a key to the colours."""
    strip = Image.new("RGB", (width, LINE), PAPER)
    side = LINE - 4 if wheel else 0
    x = (width - _length(text, 18) - side) / 2
    ImageDraw.Draw(strip).text((x, LINE / 2), text, font=_font(18), anchor="lm", fill=INK)
    if wheel:
        away = (side - 1) / 2 - np.mgrid[:side, :side]
        inside = np.hypot(*away) <= side / 2
        disc = np.where(inside[..., None], draw_offsets(away * inside), np.array(PAPER, np.uint8))
        strip.paste(Image.fromarray(disc), (round(x + _length(text, 18)) + 6, 2))
    return np.asarray(strip)


def _caption(sample: dict[str, Any], width: float) -> str:
    """The file, sizes and instances; long names lose their beginning."""
    high, wide = sample["image"].shape[1:]
    words = [f"{high} x {wide} pixels from a file of {sample['height']} x {sample['width']}"]
    if "center_points" in sample:
        number = len(sample["center_points"])
        words.append(f"{number} instance{'' if number == 1 else 's'}")
    name = Path(sample["file_name"]).name
    caption = "  ·  ".join([name, *words])
    while _length(caption, 20) > width and len(name) > 1:
        name = name[1:]
        caption = "  ·  ".join([f"...{name}", *words])
    return caption


def _legend(labels: NDArray[np.integer], classes: Classes, room: float) -> list[tuple[str, Color]]:
    """Names and colours of the classes that have most pixels, as many as fit into `room` pixels."""
    areas = np.bincount(
        labels[(labels >= 0) & (labels < len(classes.names))], minlength=len(classes.names)
    )
    legend = []
    for index in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]:
        name = classes.names[index].removesuffix("-merged")
        room -= _length(name, 18) + 18 + 7 + 26
        if room < 0:
            break
        legend.append((name, classes.colors[index]))
    return legend


def _length(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


LONGEST = 1024  # pixels


@dataclass(frozen=True)
class Sample:
    """An image, and which class each of its pixels has and is taken for; -1: none."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3), RGB
    truth: NDArray[np.int64]  # (H, W) contiguous classes
    prediction: NDArray[np.int64]  # (H, W)


def sample(
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.int64],
    prediction: NDArray[np.int64],
    label_divisor: int,
) -> Sample:
    """Of panoptic maps (H, W), shrunk so that the longer side is `LONGEST` at most.

    Args:
        truth, prediction: category * label_divisor + instance; negative: void. They may be of
            another size than the image and come out in the image's.
    """
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    maps = [
        _nearest(np.where(each < 0, -1, each // label_divisor), size)
        for each in (truth, prediction)
    ]
    return Sample(name, shrunk, *maps)


def _nearest(classes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Of the pixels nearest to the centres of those of a map of `size` (width, height)."""
    (height, width), (new_width, new_height) = classes.shape, size
    rows = np.minimum(((np.arange(new_height) + 0.5) * height / new_height).astype(int), height - 1)
    columns = np.minimum(((np.arange(new_width) + 0.5) * width / new_width).astype(int), width - 1)
    return classes[rows[:, None], columns[None, :]]


KINDS = ("image", "truth", "prediction")
LONGEST_SIDE = 640  # pixels of a picture's longer side
LONGEST_NAME = 120  # letters: file systems allow 255 bytes
QUALITY = 88  # of JPEG: names in the pictures stay legible


def save_gallery(
    names: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], folder: Path
) -> list[Path]:
    """Write `<name>_image.jpg`, `<name>_truth.jpg` and `<name>_prediction.jpg` of each row.

    Args:
        names: of the images, such as the stems of their files; one that comes again gets a number.
        rows: an image, its truth and its prediction, (H, W, 3) RGB, 0..255.
        folder: made when missing; pictures of an earlier evaluation are deleted.
    """
    clear_gallery(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for name, row in zip(_distinct(names), rows, strict=True):
        for kind, picture in zip(KINDS, row, strict=True):
            image = Image.fromarray(picture)
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            files.append(folder / f"{name}_{kind}.jpg")
            image.save(files[-1], quality=QUALITY)
    return files


def clear_gallery(folder: Path) -> None:
    """Delete the pictures of an earlier evaluation, and the folder if it held nothing else."""
    for kind in KINDS:
        for file in folder.glob(f"*_{kind}.jpg"):
            file.unlink()
    with contextlib.suppress(OSError):  # not there, or not empty
        folder.rmdir()


def _distinct(names: Sequence[str]) -> list[str]:
    """Names that files can have, each once."""
    found: list[str] = []
    for name in names:
        safe = wanted = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:LONGEST_NAME]
        number = 1
        while wanted in found:
            number += 1
            wanted = f"{safe}-{number}"
        found.append(wanted)
    return found


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
