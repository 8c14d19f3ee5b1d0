"""Images and labels of which only some rows are needed.

Shapes: H W pixels.
"""

from collections.abc import Callable

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from panoptic_dl.data.decoded_cache import DecodedCache
from panoptic_dl.data.png import first_rows, plain_png
from panoptic_dl.data.reading import read_image
from panoptic_dl.data.segment_numbers import colors_to_ids

IDS = "ids"  # a panoptic label's colours as numbers, R + 256 G + 256^2 B
CHANNELS = {"RGB": 3, "BGR": 3, IDS: 3, "L": 1}  # of the PNGs that hold a format as it is


class Source:
    """A file's pixels, decoded as far as they are asked for.

    Attributes:
        file: its name.
        kind: see `open_source`.
        shape: (H, W).
    """

    def __init__(
        self,
        file: str,
        kind: str,
        shape: tuple[int, ...],
        decode: Callable[[int], NDArray[np.integer]],
    ) -> None:
        self.file, self.kind, self.shape, self._decode = file, kind, (shape[0], shape[1]), decode

    def rows(self, stop: int) -> NDArray[np.integer]:
        """At least the rows below `stop`; (rows, W, 3), or (rows, W) of labels."""
        return self._decode(stop)


def open_source(file: str, kind: str, cache: DecodedCache | None = None) -> Source:
    """Look at a file; its pixels equal those of Detectron2's `read_image`.

    Args:
        kind: "RGB", "BGR", "L", or `IDS`: (H, W) numbers of a panoptic label's colours.
        cache: where whole decoded files are kept.

    Raises:
        DatasetError: the file is missing, truncated or no image; here, or when rows are asked for.
    """
    if cache is not None:
        pixels = cache.get(file, kind, lambda: _whole(file, kind))
        return Source(file, kind, pixels.shape, lambda stop: pixels)
    try:
        with PathManager.open(file, "rb") as opened:
            content = opened.read()
    except OSError:
        content = b""  # `read_image` will say what is wrong
    shape = plain_png(content)
    if shape is None or CHANNELS.get(kind) != shape[2]:
        pixels = _whole(file, kind)
        return Source(file, kind, pixels.shape, lambda stop: pixels)

    def decode(stop: int) -> NDArray[np.integer]:
        rows = first_rows(content, stop)
        return _whole(file, kind) if rows is None else _as(rows, kind)

    return Source(file, kind, shape, decode)


def _whole(file: str, kind: str) -> NDArray[np.integer]:
    pixels = read_image(file, "RGB" if kind == IDS else kind)
    if kind == "L":
        return pixels.squeeze(2)
    return _as(pixels, kind) if kind == IDS else pixels


def _as(rows: NDArray[np.uint8], kind: str) -> NDArray[np.integer]:
    """RGB or grey rows as the kind wants them."""
    if kind == "BGR":
        return rows[:, :, ::-1]
    if kind == IDS:
        return colors_to_ids(rows)
    return rows
