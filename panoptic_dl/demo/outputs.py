"""The folder of results of mode=demo: pictures and videos by view, and panoptic files.

    panoptic/<name>.jpg      a picture of each input, likewise semantic/, instances/, ...
    side_by_side/<name>.jpg  the image with all views
    coco_panoptic.json, coco_panoptic/<name>.png     COCO's panoptic format

Each file is written completely or not at all. H W pixels.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.settings import DemoSettings
from panoptic_dl.demo.result import PanopticResult, encode
from panoptic_dl.predictions.writer import name_unwritable, write_entries, write_prediction

SIDE_BY_SIDE = "side_by_side"
JSON = "coco_panoptic"


class ResultWriter:
    """Draws results, and writes them below a folder."""

    def __init__(
        self, folder: Path, settings: DemoSettings, views: Sequence[str], classes: Classes
    ) -> None:
        """Make the folders; DemoError where there are results of an earlier demo."""
        self.folder, self.settings, self.views = folder, settings, views
        if folder.is_dir() and any(folder.iterdir()):
            raise DemoError(
                f"{folder} holds the results of an earlier demo: choose another run_dir, or remove "
                "that folder"
            )
        self.kinds = [] if settings.layout == SIDE_BY_SIDE else list(views)
        if settings.layout != "overlay":
            self.kinds.append(SIDE_BY_SIDE)
        with name_unwritable(folder):
            for kind in [*self.kinds, *([JSON] if settings.save else [])]:
                (folder / kind).mkdir(parents=True, exist_ok=True)
        self._head = f'{{"categories": {json.dumps(classes.categories())},\n"annotations": ['
        self._entries: dict[str, list[str]] = {}
        self._images: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def draw(self, result: PanopticResult, *, exact: bool = False) -> dict[str, NDArray[np.uint8]]:
        """The pictures of a result by kind.

        With `exact`, as for videos, an overlay has the size of the image: no legend, never larger.
        """
        return {
            kind: result.draw(
                self.views if kind == SIDE_BY_SIDE else kind,
                layout=SIDE_BY_SIDE if kind == SIDE_BY_SIDE else "overlay",
                legend=self.settings.legend and not exact,
                labels=self.settings.labels,
                opacity=self.settings.opacity,
                enlarge=not exact,
            )
            for kind in self.kinds
        }

    def write(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the pictures of an image, `source`, and its panoptic PNG; from any thread."""
        suffix = self.settings.format
        for kind, picture in self.draw(result).items():
            data = encode(picture, suffix)
            with write_prediction(self.folder / kind / f"{name}.{suffix}") as temporary:
                temporary.write_bytes(data)
        self.write_panoptic(name, result, source)

    def write_panoptic(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the panoptic PNG of an image, if such are wanted, and remember its segments."""
        if not self.settings.save:
            return
        annotation, pixels = result.to_coco(name)
        file = self.folder / JSON / annotation["file_name"]
        with name_unwritable(file):
            file.parent.mkdir(exist_ok=True)  # of a video's frames
        with write_prediction(file) as temporary:
            temporary.write_bytes(encode(pixels, "png"))
        height, width = result.semantic.shape
        with self._lock:
            self._entries[name] = [json.dumps(annotation, allow_nan=False)]
            self._images.append({"id": name, "file_name": source, "height": height, "width": width})

    def finish(self) -> None:
        """Write the JSON file of all images."""
        if self.settings.save:
            self._images.sort(key=lambda image: image["id"])
            frame = self._head, f'],\n"images": {json.dumps(self._images)}}}'
            write_entries(self.folder / f"{JSON}.json", self._entries, frame)

    def places(self) -> str:
        """Where results are, for the log."""
        files = [*self.kinds, *([f"{JSON}.json"] if self.settings.save else [])]
        return ", ".join(str(self.folder / file) for file in files)
