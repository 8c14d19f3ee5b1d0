"""What `Predictor` and `Session` share: images of any kind in, `PanopticResult`s out.

H W pixels of an image, h w of the network's input, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.errors import DemoError, UnreadableImageError
from panoptic_dl.core.files import local_path
from panoptic_dl.core.images import opened_image, upright_rgb
from panoptic_dl.runtime.result import PanopticResult, Segment
from panoptic_dl.visualize.segmentation import SegmentTable
from panoptic_dl.visualize.sheets import resize_map

MAP_SIZES = ("image", "network")

AnImage = NDArray[np.uint8] | Image.Image | str | PathLike[str]


@dataclass(frozen=True, repr=False)
class PreparedImage:
    """An image, and the network's input made of it."""

    pixels: NDArray[np.uint8]  # (H, W, 3) RGB
    notes: tuple[str, ...]  # what was left out of the picture
    resized: NDArray[np.uint8]  # (3, h, w), as the network takes it
    map_size: tuple[int, int]  # (height, width) at which pixels are grouped


@dataclass(frozen=True, repr=False)
class NetworkOutput:
    """The maps of one image, on the CPU, at the size at which pixels are grouped."""

    semantic: NDArray[np.integer]
    panoptic: NDArray[np.int32] | None = None
    scores: NDArray[np.float32] | None = None  # of the things, in the order of their labels
    center: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None


class BasePredictor(ABC):
    """A model that takes images as they are; a subclass resizes them, and runs the network."""

    def __init__(self, classes: Classes, label_divisor: int, is_panoptic: bool, maps: str) -> None:
        """See `Predictor`; `is_panoptic`: or else of the semantic task."""
        if maps not in MAP_SIZES:
            raise DemoError(f"maps={maps} is unknown; choose {' or '.join(MAP_SIZES)}")
        self.classes, self.label_divisor = classes, label_divisor
        self.is_panoptic, self.maps = is_panoptic, maps

    # A path is a Sequence, too: lists and tuples alone are several images.
    @overload
    def __call__(self, images: AnImage) -> PanopticResult: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[PanopticResult]: ...
    def __call__(self, images: Any) -> PanopticResult | list[PanopticResult]:
        """Predict one image, or a list of them.

        Args:
            images: (H, W, 3) RGB uint8, a PIL image, or the path of a picture; or a
                list or tuple of them. Those of a list that have one size are a batch: give as many
                as fit into memory.

        Raises:
            DemoError: (a ValueError) an image cannot be read, or is none.
        """
        if not isinstance(images, (list, tuple)):
            return self([images])[0]
        prepared = [self.prepare(image) for image in images]
        return [
            self.finish(image, output)
            for image, output in zip(prepared, self.predict(prepared), strict=True)
        ]

    def prepare(self, image: AnImage) -> PreparedImage:
        """Read an image and resize it for the network; in any thread."""
        pixels, notes = read_pixels(image)
        resized, others = self._resize(pixels)
        resized = np.ascontiguousarray(resized.transpose(2, 0, 1))
        height, width = pixels.shape[:2] if self.maps == "image" else resized.shape[1:]
        return PreparedImage(pixels, (*notes, *others), resized, (height, width))

    @abstractmethod
    def _resize(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """The network's input (h, w, 3) of (H, W, 3) RGB, and what is to be noted of it."""

    def predict(self, images: Sequence[PreparedImage]) -> list[NetworkOutput]:
        """Run the network on prepared images; images of one size are a batch.

        Others are not batched, because padding would show in the maps.
        """
        groups: dict[Any, list[int]] = {}
        for position, image in enumerate(images):
            groups.setdefault((image.resized.shape, image.map_size), []).append(position)
        outputs: dict[int, NetworkOutput] = {}
        for positions in groups.values():
            batch = [images[position] for position in positions]
            outputs |= zip(positions, self._run(batch), strict=True)
        return [outputs[position] for position in range(len(images))]

    @abstractmethod
    def _run(self, batch: Sequence[PreparedImage]) -> list[NetworkOutput]:
        """Run the network on images of one size, which are to have maps of one size."""

    def finish(self, image: PreparedImage, output: NetworkOutput) -> PanopticResult:
        """Bring maps to the image's size, and list the segments; in any thread."""
        size = image.pixels.shape[:2]
        semantic = _labels_at(output.semantic, size)
        panoptic, segments = output.panoptic, list[Segment]()
        if panoptic is not None:
            assert output.scores is not None
            ids = SegmentTable.of(panoptic).ids
            is_thing = np.isin(ids // self.label_divisor, self.classes.thing_ids) & (ids >= 0)
            scores = dict(zip(ids[is_thing].tolist(), output.scores.tolist(), strict=True))
            panoptic = _labels_at(panoptic, size)  # type: ignore[assignment]
            segments = self._segments(panoptic, scores)
        return PanopticResult(
            image=image.pixels,
            semantic=semantic,  # type: ignore[arg-type]
            panoptic=panoptic,
            segments=segments,
            classes=self.classes,
            label_divisor=self.label_divisor,
            notes=image.notes,
        )

    def _segments(self, panoptic: NDArray[np.integer], scores: dict[int, float]) -> list[Segment]:
        table = SegmentTable.of(panoptic)
        segments = []
        for label, area, box in zip(
            table.ids.tolist(), table.areas.tolist(), table.boxes(), strict=True
        ):
            if label >= 0:  # not void
                category = label // self.label_divisor
                name, is_thing = self.classes.names[category], category in self.classes.thing_ids
                score = scores.get(label)
                segments.append(Segment(label, category, name, is_thing, area, box, score))
        return segments


def read_pixels(image: AnImage) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """An image as training and evaluation read it, upright, (H, W, 3) RGB uint8.

    It is such an array, a PIL image, or the path of a picture. Also returns what was left out of
    it, in words: mostly nothing. DemoError: it is none that `core/images` reads, in its words.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DemoError(
                f"an array of shape {image.shape} and type {image.dtype} is no image: give "
                "(H, W, 3) RGB uint8, or a PIL image or a path"
            )
        return np.ascontiguousarray(image), ()
    try:
        if isinstance(image, Image.Image):
            return np.array(upright_rgb(image, "the image")), ()
        if not isinstance(image, (str, PathLike)):
            raise DemoError(
                f"a {type(image).__name__} is no image: give a (H, W, 3) RGB uint8 array, a PIL "
                "image, a path, or a list of them"
            )
        file = local_path(image, "image")
        with opened_image(file) as opened:
            frames = getattr(opened, "n_frames", 1)
            pixels = np.array(upright_rgb(opened, file))
    except UnreadableImageError as error:
        raise DemoError(str(error)) from error
    if frames == 1 or opened.format == "MPO":  # there the others are previews of the first
        return pixels, ()
    return pixels, (f"the first of {frames} frames or pages is taken",)


def _labels_at(labels: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.integer]:
    """A map of labels at (height, width): the label of the nearest pixel."""
    return labels if labels.shape == size else resize_map(labels, size[::-1]).astype(labels.dtype)
