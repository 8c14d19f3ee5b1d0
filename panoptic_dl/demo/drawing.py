"""Pictures of a prediction: one view over the image, or several beside it.

H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from panoptic_dl.visualize.branches import draw_centers, draw_offsets
from panoptic_dl.visualize.legend import with_legend
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.segments import SegmentTable
from panoptic_dl.visualize.sheet import PAPER
from panoptic_dl.visualize.writing import Plate, corner, text_size, write_plates

from .errors import DemoError
from .result import PanopticResult

SEMANTIC_VIEWS = ("semantic",)
VIEWS = ("panoptic", "semantic", "instances", "center", "offset")
BRANCHES = ("center", "offset")
CAPTIONS = {"center": "centres", "offset": "offsets to centres"}
SHEET_TEXT = 1.35  # size of letters in a sheet of several cells, which is seen from farther away
SHORTEST = 256  # pixels of the longer side below which pictures are enlarged


@dataclass(frozen=True)
class Style:
    """How pictures look."""

    legend: bool = True
    labels: bool = True
    opacity: float = 0.55  # of colours over the image
    enlarge: bool = True  # small pictures, for labels to fit


def check_views(views: Sequence[str], *, panoptic: bool) -> None:
    """Raise DemoError for a view that is unknown, or that the kind of model has not got."""
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        named = repr(unknown[0]) if unknown else "none"
        raise DemoError(f"there is no view {named}; choose from {', '.join(VIEWS)}")
    missing = [view for view in views if not panoptic and view not in SEMANTIC_VIEWS]
    if missing:
        raise DemoError(
            f"a model of the semantic task has no view {missing[0]!r}, but only "
            f"{', '.join(SEMANTIC_VIEWS)}"
        )
    if len(set(views)) < len(views):
        raise DemoError(f"views {', '.join(views)}: name each once")


def draw_overlay(result: PanopticResult, view: str, style: Style) -> NDArray[np.uint8]:
    """One view over the image, with a legend below."""
    check_views([view], panoptic=result.panoptic is not None)
    result = enlarged(result) if style.enlarge else result
    drawer = drawer_of(result, style)
    picture = _view(result, view, drawer, None)
    return with_legend(picture, legend_of(result, [view], drawer) if style.legend else [])


def draw_side_by_side(
    result: PanopticResult, views: Sequence[str], style: Style
) -> NDArray[np.uint8]:
    """The image and views of it in cells of one size, with a legend below."""
    check_views(views, panoptic=result.panoptic is not None)
    result = enlarged(result) if style.enlarge else result
    drawer = drawer_of(result, style, SHEET_TEXT)
    cells = [_captioned(result.image, "image")]
    cells += [_view(result, view, drawer, CAPTIONS.get(view, view)) for view in views]
    sheet = _in_cells(cells)
    entries = legend_of(result, views, drawer) if style.legend else []
    return with_legend(sheet, entries, round(text_size(result.image.shape) * SHEET_TEXT))


def drawer_of(result: PanopticResult, style: Style, text_scale: float = 1.0) -> SegmentDrawer:
    """Of the classes of a result."""
    classes = result.classes
    return SegmentDrawer(
        names=classes.names,
        colors=classes.colors,
        thing_ids=classes.thing_ids,
        label_divisor=result.label_divisor,
        opacity=style.opacity,
        labels=style.labels,
        text_scale=text_scale,
    )


def enlarged(result: PanopticResult) -> PanopticResult:
    """A result whose longer side has at least 256 pixels: pixels become squares."""
    factor = -(-SHORTEST // max(result.image.shape[:2]))
    if factor <= 1:
        return result

    def grow(maps: NDArray) -> NDArray:
        return maps.repeat(factor, axis=-2).repeat(factor, axis=-1)

    return replace(
        result,
        image=result.image.repeat(factor, axis=0).repeat(factor, axis=1),
        semantic=grow(result.semantic),
        panoptic=None if result.panoptic is None else grow(result.panoptic),
        center=None if result.center is None else grow(result.center),
        offset=None if result.offset is None else grow(result.offset),
    )


def legend_of(
    result: PanopticResult, views: Sequence[str], drawer: SegmentDrawer
) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that views show."""
    if result.panoptic is not None and {"panoptic", "instances"} & set(views):
        labels = np.array([segment.id for segment in result.segments], np.int64)
        if not {"panoptic", "semantic"} & set(views):
            labels = labels[drawer.are_things(labels)]
        return drawer.legend(labels)
    if "semantic" in views:
        found = SegmentTable.of(result.semantic.astype(np.int32)).ids
        names, colors = drawer.names, drawer.colors
        return [(names[i], (int(r), int(g), int(b))) for i in found for r, g, b in [colors[i]]]
    return []


def _view(
    result: PanopticResult, view: str, drawer: SegmentDrawer, caption: str | None
) -> NDArray[np.uint8]:
    if view == "semantic":
        return drawer.semantic(result.image, result.semantic, caption)
    panoptic = result.panoptic
    assert panoptic is not None  # check_views has seen to it
    if view not in BRANCHES:
        scores = {s.id: s.score for s in result.segments if s.score is not None}
        draw = drawer.panoptic if view == "panoptic" else drawer.instances
        return draw(result.image, panoptic, scores, caption)
    if result.center is None or result.offset is None:
        raise DemoError(
            f"the view {view!r} needs the branches of the network, which were not kept: "
            "Predictor.from_run(..., branches=True)"
        )
    if view == "center":
        return _captioned(draw_centers(result.image, result.center), caption)
    table = SegmentTable.of(panoptic)
    things = table.choose(drawer.are_things(table.ids))
    return _captioned(draw_offsets(result.image, result.offset, things), caption)


def _captioned(picture: NDArray[np.uint8], caption: str | None) -> NDArray[np.uint8]:
    plate = Plate(caption or "", round(text_size(picture.shape) * SHEET_TEXT * 1.2))
    fits = plate.extent[0] < picture.shape[0] and plate.extent[1] < picture.shape[1]
    if not caption or not fits:
        return picture
    return write_plates(picture, [(plate, *corner(picture.shape, plate))])


def _in_cells(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures of one size in rows: two columns, or more where they are upright."""
    height, width = cells[0].shape[:2]
    columns = min(len(cells), 2 if width >= height else 3 if width * 3 >= height else len(cells))
    rows = -(-len(cells) // columns)
    gap = max(2, round((height * width) ** 0.5 / 120))
    sheet = np.empty(
        (rows * height + (rows - 1) * gap, columns * width + (columns - 1) * gap, 3), np.uint8
    )
    sheet[:] = PAPER
    for number, cell in enumerate(cells):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    """The bytes of a file, `jpg` or `png`."""
    options = {
        # Colours at full size, for thin lines keep theirs.
        "jpg": [
            *(cv2.IMWRITE_JPEG_QUALITY, 90),
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
        ],
        "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    }[kind]
    done, data = cv2.imencode(f".{kind}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise DemoError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} cannot be written "
            f"as {kind}: choose demo.format=png"
        )
    return data.tobytes()
