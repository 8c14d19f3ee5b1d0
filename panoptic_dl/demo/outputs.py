"""The folder of results of mode=demo: pictures and videos by view, and files for other programs.

    panoptic/<name>.jpg      a picture of each input, likewise semantic/, instances/, ...
    side_by_side/<name>.jpg  the image with all views
    coco_panoptic.json, coco_panoptic/<name>.png     COCO's panoptic format
    coco_instances.json      things in COCO's format for instances: run-length codes of their masks
    masks/<name>.png         classes of pixels, 0..K-1, with their colors as palette; classes.json

Each file is written completely or not at all. H W pixels.
"""

import json
import threading
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.classes import CLASSES, Classes
from panoptic_dl.core.errors import DemoError, name_unwritable
from panoptic_dl.core.files import temporary_path, write_text
from panoptic_dl.core.masks import encode_mask
from panoptic_dl.core.settings import DemoSettings
from panoptic_dl.predictions.dataset import write_prediction
from panoptic_dl.runtime.result import PanopticResult, encode

SIDE_BY_SIDE = "side_by_side"
PANOPTIC, INSTANCES, MASKS = "coco_panoptic", "coco_instances", "masks"
SAVED = {"panoptic": PANOPTIC, "json": PANOPTIC, "instances": INSTANCES, "masks": MASKS}
"""Files and folders by the values of `demo.save`; json is what panoptic was called first."""

THING_KEYS = ("category_id", "iscrowd", "area", "bbox", "score")


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
        given = [settings.save] if isinstance(settings.save, str) else settings.save or []
        self.saved = list(dict.fromkeys(SAVED[kind] for kind in given))
        with name_unwritable(folder):
            for kind in [*self.kinds, *self.saved]:
                if kind != INSTANCES:
                    (folder / kind).mkdir(parents=True, exist_ok=True)
            if MASKS in self.saved:
                write_text(folder / CLASSES, classes.to_json())
        self.categories = classes.categories()
        # Of each image its entry, its annotation for PANOPTIC and those for INSTANCES.
        self._entries: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]] = []
        self._lock = threading.Lock()

    def draw(self, result: PanopticResult, *, legend: bool) -> dict[str, NDArray[np.uint8]]:
        """The pictures of a result by kind; without a legend an overlay has the image's size."""
        return {
            kind: result.draw(
                self.views if kind == SIDE_BY_SIDE else kind,
                layout=SIDE_BY_SIDE if kind == SIDE_BY_SIDE else "overlay",
                legend=legend,
                labels=self.settings.labels,
                scores=self.settings.scores,
                opacity=self.settings.opacity,
            )
            for kind in self.kinds
        }

    def write(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the pictures of an image, and its other files; from any thread."""
        suffix = self.settings.format
        for kind, picture in self.draw(result, legend=self.settings.legend).items():
            file = self.folder / kind / f"{name}.{suffix}"
            write_prediction(file, encode(picture, suffix))
        self.write_files(name, result, source)

    def write_files(self, name: str, result: PanopticResult, source: str) -> None:
        """Write the PNGs of an image that are wanted, and remember its segments.

        Args:
            source: the "file_name" of the image.
        """
        if not self.saved:
            return
        height, width = result.semantic.shape
        image = {"id": name, "file_name": source, "height": height, "width": width}
        files: dict[str, bytes] = {}
        annotation: dict[str, Any] = {}
        things: list[dict[str, Any]] = []
        if MASKS in self.saved:
            files[MASKS] = _indexed_png(result)
        if self.saved != [MASKS]:
            annotation, pixels = result.to_coco(name)
            if PANOPTIC in self.saved:
                files[PANOPTIC] = encode(pixels, "png")
        infos = annotation.get("segments_info", ()) if INSTANCES in self.saved else ()
        for segment, info in zip(result.segments, infos, strict=False):
            if segment.is_thing:
                thing = {key: info[key] for key in THING_KEYS}
                things.append(thing | {"segmentation": encode_mask(result.mask(segment))})
        for kind, data in files.items():
            file = self.folder / kind / f"{name}.png"
            with name_unwritable(file):
                file.parent.mkdir(exist_ok=True)  # of a video's frames
            write_prediction(file, data)
        with self._lock:
            self._entries.append((image, annotation, things))

    def finish(self) -> None:
        """Write the JSON files of all images."""
        entries = sorted(self._entries, key=lambda each: str(each[0]["id"]))
        if PANOPTIC in self.saved:
            images, annotations = [e[0] for e in entries], [e[1] for e in entries]
            self._write_json(PANOPTIC, self.categories, images, annotations)
        if INSTANCES in self.saved:  # whose images and things have numbers
            images = [image | {"id": i} for i, (image, _, _) in enumerate(entries, 1)]
            things = [{"image_id": i} | t for i, (*_, of) in enumerate(entries, 1) for t in of]
            numbered = [{"id": number} | thing for number, thing in enumerate(things, 1)]
            categories = [category for category in self.categories if category["isthing"]]
            self._write_json(INSTANCES, categories, images, numbered)

    def _write_json(self, name: str, categories: Any, images: Any, annotations: Any) -> None:
        content = {"categories": categories, "annotations": annotations, "images": images}
        data = json.dumps(content, allow_nan=False).encode()
        write_prediction(self.folder / f"{name}.json", data)

    def places(self) -> str:
        """Where results are, for the log."""
        saved = [kind if kind == MASKS else f"{kind}.json" for kind in self.saved]
        return ", ".join(str(self.folder / file) for file in [*self.kinds, *saved])


def _indexed_png(result: PanopticResult) -> bytes:
    """Classes of pixels, in the colors of the classes where they are at most 256."""
    image = Image.fromarray(result.semantic)
    if result.semantic.dtype == np.uint8:
        image.putpalette([value for color in result.classes.colors for value in color])
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


SUFFIX = ".mp4"
CODEC = "mp4v"  # MPEG-4: what OpenCV's own build can write without further programs


class VideoWriter:
    """A video that takes its name when it is complete, or was stopped in good order."""

    def __init__(self, file: Path, fps: float) -> None:
        """`file` has the suffix `SUFFIX`, and its folder is there; `fps`: frames per second."""
        self.file, self.fps = file, fps
        self.frames = 0
        self._temporary = temporary_path(file)
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame (H, W, 3) RGB; an odd last row or column is left out, for the codec."""
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            if not height or not width:
                raise DemoError(f"{self.file}: a video needs at least 2 x 2 pixels")
            code = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._temporary), code, self.fps, (width, height))
            if not self._writer.isOpened():
                raise DemoError(
                    f"{self.file}: OpenCV cannot write {width} x {height} pixels as {CODEC}: is "
                    "the disk full, or may it not be written? install opencv-python-headless again"
                )
        picture = np.ascontiguousarray(frame[:height, :width])
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the file and give it its name; after an error, or without frames, remove it.

        DemoError if frames are missing: OpenCV itself does not notice a full disk.
        """
        if self._writer is not None:
            self._writer.release()
        keep = kind is None or issubclass(kind, KeyboardInterrupt)  # Ctrl-C is a good end
        if keep and self.frames and self._count() == self.frames:
            self._temporary.replace(self.file)
            return
        self._temporary.unlink(missing_ok=True)
        if keep and self.frames:
            raise DemoError(f"{self.file}: not all frames could be written: is the disk full?")

    def _count(self) -> int:
        """Frames that the file's index lists, if the last of them is there."""
        capture = cv2.VideoCapture(str(self._temporary))
        try:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.set(cv2.CAP_PROP_POS_FRAMES, max(0, count - 1))
            return count if capture.read()[0] else 0
        finally:
            capture.release()
