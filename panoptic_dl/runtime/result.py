"""The prediction for one image, and its drawings: one view over the image, or several next to it.

H W pixels of the image, K classes.
"""

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError, name_unwritable
from panoptic_dl.core.files import atomic_write, local_path, printable
from panoptic_dl.core.images import ids_to_colors, picture_ids
from panoptic_dl.visualize.segmentation import SegmentDrawer, SegmentTable
from panoptic_dl.visualize.sheets import legend_strip, with_legend
from panoptic_dl.visualize.style import PAPER, Color, draw_text_boxes, place_caption, text_size

VIEWS = ("panoptic", "semantic", "instances", "center", "offset")
SEMANTIC_VIEWS = ("semantic",)  # those that a model of the semantic task has
BRANCHES = ("center", "offset")  # those that need the branches of the network
CAPTIONS = {"center": "centers", "offset": "offsets to centers"}
SHEET_TEXT = 1.35  # size of letters in a sheet of several cells, which is seen from farther away
WIDE = 1.5  # width of a sheet to its height that is aimed at
NOTEBOOK_SIDE = 1600  # pixels; a cell is narrower, and the notebook is a file


@dataclass(frozen=True)
class Segment:
    """A thing, or all pixels of a stuff class, in one image.

    Attributes:
        id: its value in the panoptic map.
        category: contiguous id of its class, 0..K-1.
        name: of its class.
        is_thing: whether its class has instances.
        area: in pixels.
        box: (x0, y0, x1, y1) in pixels, right and bottom exclusive.
        score: of a thing: how sure the model is, about 0..1 (see `instances_from_panoptic`); None
            for stuff.
    """

    id: int
    category: int
    name: str
    is_thing: bool
    area: int
    box: tuple[int, int, int, int]
    score: float | None


@dataclass(frozen=True, repr=False)
class PanopticResult:
    """The prediction for one image, at the size of the image.

    Attributes:
        image: (H, W, 3) RGB uint8, upright, as the network was shown it before any resizing.
        semantic: (H, W) uint8 (uint16 for more than 256 classes), the class of each pixel.
        panoptic: (H, W) int32 of category * label_divisor + instance, -1 where void; None of a
            model of the semantic task.
        segments: of the panoptic map, by id; none of the semantic task.
        classes: names and colors.
        label_divisor: see `panoptic`.
        center: (H, W) float32 heatmap of centers, where branches were asked for.
        offset: (2, H, W) float32 (y, x) in pixels to the center, where branches were asked for.
        notes: what was left out of the picture, in words.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.unsignedinteger]
    panoptic: NDArray[np.int32] | None
    segments: list[Segment]
    classes: Classes
    label_divisor: int = 1000
    center: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        height, width = self.semantic.shape
        counts = Counter(segment.name for segment in self.segments)
        found = "".join(f", {number} {printable(name, 40)}" for name, number in counts.items())
        return f"PanopticResult({height} x {width} pixels{found})"

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows of it, with at most 1600 pixels a side."""
        picture: NDArray[Any] = self.draw()
        scale = NOTEBOOK_SIDE / max(picture.shape)
        if scale < 1:
            size = [max(1, round(scale * side)) for side in picture.shape[1::-1]]
            picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        return encode(picture, "png")

    @property
    def instances(self) -> list[Segment]:
        """The things, best scores first."""
        things = [segment for segment in self.segments if segment.is_thing]
        return sorted(things, key=lambda segment: -(segment.score or 0))

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """(H, W): where a segment is."""
        assert self.panoptic is not None
        return self.panoptic == segment.id

    def to_coco(self, name: str = "image") -> tuple[dict[str, Any], NDArray[np.uint8]]:
        """An annotation of COCO's panoptic format, and the pixels of its PNG.

        Args:
            name: of the image: its "image_id", and the stem of the PNG's "file_name".

        Returns:
            The annotation, JSON's types throughout: category ids are those of the dataset (0..K-1
            where `classes` does not know them), things have a "score". (H, W, 3) RGB uint8: a
            segment's id is R + 256 G + 256^2 B, 0 where void.

        Raises:
            DemoError: a model of the semantic task predicts no segments.
        """
        if self.panoptic is None:
            raise DemoError("a model of the semantic task has no segments for COCO's format")
        ids, numbers = picture_ids(self.panoptic, len(self.classes), self.label_divisor)
        category_ids = self.classes.category_ids or range(len(self.classes))
        segments = [
            {
                "id": numbers[segment.id],
                "category_id": category_ids[segment.category],
                "isthing": int(segment.is_thing),
                "iscrowd": 0,
                "area": segment.area,
                "bbox": [left, top, right - left, bottom - top],
                **({} if segment.score is None else {"score": round(segment.score, 6)}),
            }
            for segment in self.segments
            for left, top, right, bottom in [segment.box]
        ]
        annotation = {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}
        return annotation, ids_to_colors(ids)

    def save(self, path: str | PathLike[str], **options: Any) -> None:
        """Write a picture, or COCO's panoptic format; folders are made when missing.

        Args:
            path: .jpg or .png: the picture that `draw` makes. .json: images, annotations and
                categories, and the PNG of the segments' ids in the folder of the file's name
                without .json, where COCO's scripts look for it.
            options: of `draw`.

        Raises:
            DemoError: another suffix; see `draw` and `to_coco`.
            EvaluationError: the disk refuses it.
        """
        file = local_path(path)
        suffix = file.suffix.lower().removeprefix(".")
        if suffix == "json":
            annotation, pixels = self.to_coco(file.stem)
            (height, width), name = self.semantic.shape, annotation["image_id"]
            image = {"id": name, "file_name": name, "height": height, "width": width}
            content = {"images": [image], "annotations": [annotation]}
            content["categories"] = self.classes.categories()
            picture = file.with_suffix("") / annotation["file_name"]
            written = {picture: encode(pixels, "png"), file: json.dumps(content).encode()}
        elif suffix in ("jpg", "jpeg", "png"):
            written = {file: encode(self.draw(**options), suffix)}
        else:
            raise DemoError(f"cannot save a result as {file.name}: choose .jpg, .png or .json")
        for target, data in written.items():
            with name_unwritable(target.parent):
                target.parent.mkdir(parents=True, exist_ok=True)
            with name_unwritable(target), atomic_write(target, sync=False) as temporary:
                temporary.write_bytes(data)

    def draw(
        self,
        views: Sequence[str] | str | None = None,
        *,
        layout: str = "overlay",
        legend: bool = True,
        labels: bool = True,
        scores: bool = False,
        opacity: float = 0.55,
    ) -> NDArray[np.uint8]:
        """A picture of it, RGB uint8.

        Args:
            views: "panoptic", "semantic", "instances", "center", "offset": one with
                `layout="overlay"`, any with "side_by_side", where the image stands next to them.
                None: panoptic, or semantic where that is all there is.
            layout: "overlay" or "side_by_side".
            legend: name the classes below.
            labels: name segments.
            scores: write the scores of instances behind their names.
            opacity: of colors over the image, 0..1.

        Raises:
            ValueError: a view that is unknown, or that the result does not have.
        """
        if views is None:
            views = "semantic" if self.panoptic is None else "panoptic"
        chosen = [views] if isinstance(views, str) else list(views)
        side_by_side = layout == "side_by_side"
        if not side_by_side and (layout != "overlay" or len(chosen) != 1):
            raise ValueError(
                f"layout={layout} with views={chosen}: overlay takes one view, side_by_side any"
            )
        check_views(chosen, panoptic=self.panoptic is not None)
        drawer = SegmentDrawer(
            names=self.classes.names,
            colors=self.classes.colors,
            thing_ids=self.classes.thing_ids,
            label_divisor=self.label_divisor,
            opacity=opacity,
            labels=labels,
            scores=scores,
            text_scale=SHEET_TEXT if side_by_side else 1.0,
        )
        entries = _legend_of(self, chosen, drawer) if legend else []
        if not side_by_side:
            return with_legend(_draw_view(self, chosen[0], drawer, None), entries)
        cells = [_captioned(self.image, "image")]
        cells += [_draw_view(self, view, drawer, CAPTIONS.get(view, view)) for view in chosen]
        size = round(text_size(self.image.shape) * SHEET_TEXT)
        number, shape = len(cells), self.image.shape
        if entries and _layout(number + 1, shape) < _layout(number, shape):
            # In the field that would be empty, or that makes a better sheet, if it fits there.
            strips = (legend_strip(entries, shape[1], round(size * by)) for by in (2, 1.5, 1))
            fitting = [strip for strip in strips if len(strip) <= shape[0]][:1]
            cells, entries = cells + fitting, [] if fitting else entries
        return with_legend(_in_cells(cells), entries, size)


def encode(picture: NDArray[np.uint8], kind: str) -> bytes:
    """The bytes of a file, `jpg` or `png`, of (H, W, 3) RGB."""
    buffer, image = io.BytesIO(), Image.fromarray(picture)
    if kind == "png":
        image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    try:  # with colors at full size, because thin lines would lose theirs
        image.save(buffer, "JPEG", quality=90, subsampling="4:4:4")
    except OSError as error:  # JPEGs have at most 65,500 pixels a side
        raise DemoError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} cannot be written "
            f"as {kind}: choose demo.format=png"
        ) from error
    return buffer.getvalue()


def check_views(views: Sequence[str], *, panoptic: bool) -> None:
    """Raise DemoError for a view that is unknown, or that the kind of model does not have."""
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


def _legend_of(
    result: PanopticResult, views: Sequence[str], drawer: SegmentDrawer
) -> list[tuple[str, Color]]:
    """Names and colors of the classes that views show."""
    if result.panoptic is not None and {"panoptic", "instances"} & set(views):
        table = SegmentTable.of(result.panoptic)
        all_classes = {"panoptic", "semantic"} & set(views)
        labels = table.ids if all_classes else np.where(drawer.are_things(table.ids), table.ids, -1)
    elif "semantic" in views:
        table = SegmentTable.of(result.semantic.astype(np.int32))
        labels = table.ids * drawer.label_divisor
    else:
        return []
    return drawer.legend(table, labels)


def _draw_view(
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
    from panoptic_dl.visualize.overlays import draw_centers, draw_offsets  # they need OpenCV

    if view == "center":
        return _captioned(draw_centers(result.image, result.center), caption)
    table = SegmentTable.of(panoptic)
    things = table.mask_of(drawer.are_things(table.ids))
    return _captioned(draw_offsets(result.image, result.offset, things), caption)


def _captioned(picture: NDArray[np.uint8], caption: str | None) -> NDArray[np.uint8]:
    size = round(text_size(picture.shape) * SHEET_TEXT * 1.2)
    return draw_text_boxes(picture, place_caption(picture.shape, caption, size))


def _layout(number: int, shape: Sequence[int]) -> tuple[float, int]:
    """How bad the best layout of so many pictures (H, W, ...) is, and its number of columns."""

    def badness(columns: int) -> float:
        rows = -(-number // columns)
        empty = 1 - number / (rows * columns)
        return abs(math.log(columns * shape[1] / (rows * shape[0]) / WIDE)) + 4 * empty

    return min((badness(columns), columns) for columns in range(1, number + 1))


def _in_cells(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures, none larger than the first, in rows: the sides of the sheet suit a screen."""
    height, width = cells[0].shape[:2]
    _, columns = _layout(len(cells), cells[0].shape)
    gap = max(2, round((height * width) ** 0.5 / 120))
    high, wide = height + gap, width + gap
    sheet = np.empty((-(-len(cells) // columns) * high - gap, columns * wide - gap, 3), np.uint8)
    sheet[:] = PAPER
    for number, cell in enumerate(cells):
        top, left = number // columns * high, number % columns * wide
        sheet[top : top + len(cell), left : left + width] = cell
    return sheet
