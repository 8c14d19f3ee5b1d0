"""A training sample in one picture: the image that the network gets and its targets.

H W pixels, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from panoptic_dl.core.classes import Classes
from panoptic_dl.visualize.sheets import GAP, LINE, fit, save_sheet, scale
from panoptic_dl.visualize.style import INK, PAPER, Color, font, text_width

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

HEAT = np.array([255, 225, 60], np.float32)
LEFT_OUT = np.array([150, 20, 30], np.float32)
WHITE_WEIGHT = 3.0  # the least weight that is drawn white
COLUMNS, NARROWEST = 3, 480  # of the sheet; pixels of a column
LARGEST = {2: (960, 720), 3: (640, 640)}  # width and height of a panel in pixels, by columns


def save_sample(
    sample: dict[str, Any], file: Path, classes: Classes, *, ignore_label: int, image_format: str
) -> None:
    """Write a PNG of a sample's panels, with a caption and the colors of its largest classes.

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
    room = width - 2 * GAP - text_width(title, 20)
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
    """Pictures (H, W, 3) by what they show: the image and labels; with centers four more.

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
    unknown = labels[~ignored & ((labels < 0) | (labels >= len(classes.names)))]
    if unknown.size:
        raise ValueError(
            f"{sample['file_name']} has the label {unknown[0]}, and there are {len(classes.names)} "
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
        f"weights of the semantic loss, dark to bright: {_list_values(weights)}": _gray(
            weights, max(WHITE_WEIGHT, float(weights.max()))
        ),
        "centre heatmap (red: left out of the loss)": _heatmap(
            image, sample["center"].numpy(), sample["center_weights"][0].numpy()
        ),
        f"offsets, up to {longest:.0f} pixels; those of a disc:": color_offsets(offset),
        "weights of the offset loss, dark to bright: "
        f"{_list_values(sample['offset_weights'].numpy())}": _gray(
            sample["offset_weights"][0].numpy(), 1.0
        ),
    }


def color_offsets(offset: NDArray[np.floating]) -> Picture:
    """A field (2, H, W) of (y, x): direction is hue, length brightness; black where there is none.

    Brightness grows with the root of the length, and the longest is the brightest, so that small
    instances are visible next to large ones.
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
    """Peaks over the darkened image; pixels left out of the loss are red."""
    dark = np.repeat(image.mean(axis=2, keepdims=True) * 0.4, 3, axis=2)
    dark[weights == 0] = dark[weights == 0] * 0.5 + LEFT_OUT * 0.5
    heat = center[..., None].clip(0, 1)
    return (dark * (1 - heat) + HEAT * heat).round().astype(np.uint8)


def _gray(weights: NDArray[np.floating], white: float) -> Picture:
    """Black for a weight of 0; `white` is the weight that is white."""
    return np.repeat((weights / white * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _list_values(weights: NDArray[np.floating]) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(weights)[:6])


def _cell(picture: Picture, size: tuple[int, int], width: int) -> Picture:
    """Scaled to `size` (width, height), in the middle of a cell so wide."""
    cell = Image.new("RGB", (width, size[1]), PAPER)
    cell.paste(scale(picture, size), ((width - size[0]) // 2, 0))
    return np.asarray(cell)


def _heading(text: str, width: int, *, wheel: bool) -> Picture:
    """A strip like the sheet's own headings; with the offsets of a disc as a key to the colors."""
    strip = Image.new("RGB", (width, LINE), PAPER)
    side = LINE - 4 if wheel else 0
    x = (width - text_width(text, 18) - side) / 2
    ImageDraw.Draw(strip).text((x, LINE / 2), text, font=font(18), anchor="lm", fill=INK)
    if wheel:
        away = (side - 1) / 2 - np.mgrid[:side, :side]
        inside = np.hypot(*away) <= side / 2
        disc = np.where(inside[..., None], color_offsets(away * inside), np.array(PAPER, np.uint8))
        strip.paste(Image.fromarray(disc), (round(x + text_width(text, 18)) + 6, 2))
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
    while text_width(caption, 20) > width and len(name) > 1:
        name = name[1:]
        caption = "  ·  ".join([f"...{name}", *words])
    return caption


def _legend(labels: NDArray[np.integer], classes: Classes, room: float) -> list[tuple[str, Color]]:
    """Names and colors of the classes that have most pixels, as many as fit into `room` pixels."""
    areas = np.bincount(
        labels[(labels >= 0) & (labels < len(classes.names))], minlength=len(classes.names)
    )
    legend = []
    for index in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]:
        name = classes.names[index].removesuffix("-merged")
        room -= text_width(name, 18) + 18 + 7 + 26
        if room < 0:
            break
        legend.append((name, classes.colors[index]))
    return legend
