"""The folder of results: pictures and videos by view, and panoptic files.

    panoptic/<name>.jpg      a picture of each input, likewise semantic/, instances/, ...
    side_by_side/<name>.jpg  the image with all views
    coco_panoptic.json, coco_panoptic/<name>.png     COCO's panoptic format

Each file is there whole or not at all. H W pixels.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.classes import Classes
from panoptic_dl.evaluation.segment_matching import NUM_IDS
from panoptic_dl.prediction_files.files import whole, writing
from panoptic_dl.prediction_files.panoptic_writer import id_colors
from panoptic_dl.prediction_files.parts import JsonParts

from .drawing import draw_overlay, draw_side_by_side, encode
from .errors import DemoError
from .result import PanopticResult
from .settings import DemoSettings

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
        with writing(folder):
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
            with whole(self.folder / view / f"{name}.{kind}") as temporary:
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
        with writing(file):
            file.parent.mkdir(exist_ok=True)  # of a video's frames
        with whole(file) as temporary:
            temporary.write_bytes(encode(id_colors(ids), "png"))
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
