"""Pictures of a prediction: one view over the image, or several beside it.

H W pixels.

The folder of results: pictures and videos by view, and panoptic files.

    panoptic/<name>.jpg      a picture of each input, likewise semantic/, instances/, ...
    side_by_side/<name>.jpg  the image with all views
    coco_panoptic.json, coco_panoptic/<name>.png     COCO's panoptic format

Each file is there whole or not at all. H W pixels.

What the demo is told: `conf/demo/default.yaml`.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.images import NUM_IDS, ids_to_colors
from panoptic_dl.core.parallel import count_cores
from panoptic_dl.demo.predictor import PanopticResult
from panoptic_dl.predictions.writer import JsonParts, name_unwritable, write_prediction
from panoptic_dl.visualize.overlays import draw_centers, draw_offsets
from panoptic_dl.visualize.segmentation import SegmentDrawer, SegmentTable
from panoptic_dl.visualize.sheets import with_legend
from panoptic_dl.visualize.style import PAPER, draw_text_boxes, place_caption, text_size

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
    things = table.mask_of(drawer.are_things(table.ids))
    return _captioned(draw_offsets(result.image, result.offset, things), caption)


def _captioned(picture: NDArray[np.uint8], caption: str | None) -> NDArray[np.uint8]:
    size = round(text_size(picture.shape) * SHEET_TEXT * 1.2)
    return draw_text_boxes(picture, place_caption(picture.shape, caption, size))


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


LAYOUTS = {
    "overlay": ("overlay",),
    "side_by_side": ("side_by_side",),
    "both": ("overlay", "side_by_side"),
}
FORMATS = ("jpg", "png")
MOST_WORKERS = 8


@dataclass(frozen=True)
class DemoSettings:
    """The fields are the keys of `demo`; see the file for what they mean."""

    views: str | Sequence[str] | None = None
    layout: str = "overlay"
    format: str = "jpg"
    save: str | None = None
    legend: bool = True
    labels: bool = True
    opacity: float = 0.55
    maps: str = "network"
    precision: str = "fp32"
    batch_size: int = 1
    num_workers: int | None = None
    max_frames: int | None = None

    def __post_init__(self) -> None:
        for key, value, known in (
            ("layout", self.layout, tuple(LAYOUTS)),
            ("format", self.format, FORMATS),
            ("save", self.save, (None, "json")),
        ):
            if value not in known:
                options = ", ".join("null" if k is None else k for k in known)
                raise DemoError(f"demo.{key}={value} is unknown; choose {options}")
        for key, number in (
            ("batch_size", self.batch_size),
            ("num_workers", self.num_workers),
            ("max_frames", self.max_frames),
        ):
            if number is not None and (type(number) is not int or number < 1):
                raise DemoError(f"demo.{key}={number} must be a whole number, at least 1")
        if not 0 <= self.opacity <= 1:
            raise DemoError(f"demo.opacity={self.opacity} must be within 0..1")

    def views_of(self, *, panoptic: bool) -> list[str]:
        """The views that are drawn, of a model of either task.

        Raises:
            DemoError: one is unknown, or the model has not got it, nor panoptic files.
        """
        views = self.views
        if views is None:
            views = "panoptic" if panoptic else "semantic"
        chosen = [views] if isinstance(views, str) else list(views)
        try:
            check_views(chosen, panoptic=panoptic)
        except DemoError as error:
            raise DemoError(f"demo.views: {error}") from None
        if self.save and not panoptic:
            raise DemoError("demo.save=json writes panoptic files, which task=semantic has none of")
        return chosen

    def needs_branches(self, views: Sequence[str]) -> bool:
        return bool(set(views) & set(BRANCHES))

    @property
    def layouts(self) -> tuple[str, ...]:
        return LAYOUTS[self.layout]

    @property
    def style(self) -> Style:
        return Style(legend=self.legend, labels=self.labels, opacity=self.opacity)

    @property
    def workers(self) -> int:
        """Threads that read, and as many that draw and write."""
        return self.num_workers or min(MOST_WORKERS, count_cores())


SIDE_BY_SIDE = "side_by_side"
JSON = "coco_panoptic"


class Results:
    """Draws results, and writes them below a folder."""

    def __init__(
        self, folder: Path, settings: DemoSettings, views: Sequence[str], classes: Classes
    ) -> None:
        """Make the folders.

        Raises:
            DemoError: there are results of an earlier demo, which are never overwritten.
        """
        self.folder, self.settings, self.views, self.classes = folder, settings, views, classes
        if folder.is_dir() and any(folder.iterdir()):
            raise DemoError(
                f"{folder} holds the results of an earlier demo: choose another run_dir, or remove "
                "that folder"
            )
        kinds = list(views) if "overlay" in settings.layouts else []
        self.kinds = kinds + [SIDE_BY_SIDE] * (SIDE_BY_SIDE in settings.layouts)
        with name_unwritable(folder):
            for kind in [*self.kinds, *([JSON] if settings.save else [])]:
                (folder / kind).mkdir(parents=True, exist_ok=True)
        self._images: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def draw(self, result: PanopticResult, *, exact: bool = False) -> dict[str, NDArray[np.uint8]]:
        """The pictures of a result by kind.

        With `exact`, as for videos, an overlay has the size of the image: no legend, never larger.
        """
        style = self.settings.style
        if exact:
            style = replace(style, legend=False, enlarge=False)
        pictures = {}
        for kind in self.kinds:
            if kind == SIDE_BY_SIDE:
                pictures[kind] = draw_side_by_side(result, self.views, style)
            else:
                pictures[kind] = draw_overlay(result, kind, style)
        return pictures

    def write(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the pictures of one image, and its panoptic PNG; from any thread.

        Args:
            source: the image, for the JSON file.
        """
        kind = self.settings.format
        for view, picture in self.draw(result).items():
            data = encode(picture, kind)
            with write_prediction(self.folder / view / f"{name}.{kind}") as temporary:
                temporary.write_bytes(data)
        self.write_panoptic(name, result, source)

    def write_panoptic(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the panoptic PNG of an image, if such are wanted, and remember its segments."""
        if not self.settings.save:
            return
        assert result.panoptic is not None
        ids = result.panoptic + 1  # 0 is void
        if int(ids.max()) >= NUM_IDS:
            raise DemoError("panoptic ids do not fit into a PNG of three colours")
        file = self.folder / JSON / f"{name}.png"
        with name_unwritable(file):
            file.parent.mkdir(exist_ok=True)  # of a video's frames
        with write_prediction(file) as temporary:
            temporary.write_bytes(encode(ids_to_colors(ids), "png"))
        segments = [
            {
                "id": segment.id + 1,
                "category_id": segment.category,
                "isthing": int(segment.is_thing),
                "iscrowd": 0,
                "area": segment.area,
                "bbox": _corner_and_size(segment.box),
                **({} if segment.score is None else {"score": round(segment.score, 6)}),
            }
            for segment in result.segments
        ]
        height, width = result.panoptic.shape
        entry = {"image_id": name, "file_name": f"{name}.png", "segments_info": segments}
        with self._lock:
            self._parts().append(name, [entry])
            self._images.append({"id": name, "file_name": source, "height": height, "width": width})

    def finish(self) -> None:
        """Write the JSON file of all that was noted."""
        if self.settings.save:
            self._images.sort(key=lambda image: image["id"])
            self._parts().merge([image["id"] for image in self._images])

    def places(self) -> str:
        """Where results are, for the log."""
        files = [*self.kinds, *([f"{JSON}.json"] if self.settings.save else [])]
        return ", ".join(str(self.folder / file) for file in files)

    def _parts(self) -> JsonParts:
        categories = [
            {"id": i, "name": name, "color": list(color), "isthing": int(i in self._things)}
            for i, (name, color) in enumerate(
                zip(self.classes.names, self.classes.colors, strict=True)
            )
        ]
        head = f'{{"categories": {json.dumps(categories)},\n"annotations": ['
        tail = f'],\n"images": {json.dumps(self._images)}}}'
        return JsonParts(self.folder / f"{JSON}.json", head, tail)

    @property
    def _things(self) -> set[int]:
        return set(self.classes.thing_ids)


def _corner_and_size(box: tuple[int, int, int, int]) -> list[int]:
    """[x, y, width, height] of (x0, y0, x1, y1), in pixels."""
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
