"""Read labels, once an image; a file that cannot be read is named.

Each thread remembers the last label that it read, for evaluators that follow each other.

Shapes: H W pixels.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_dl.evaluation.damage import unreadable
from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.image_files import no_truncated_images

_last = threading.local()


def read_panoptic_ids(file: str | Path) -> np.ndarray:
    """Read a panoptic PNG: (H, W) ids R + 256 G + 256^2 B, uint32, not to be written to.

    Raises:
        EvaluationError: it cannot be read, or has no colours.
    """
    return _read(file, _panoptic_ids)


def read_label_ids(file: str | Path) -> np.ndarray:
    """Read a label PNG of 8 or 16 bits: (H, W) integers as in the file, not to be written to.

    Raises:
        EvaluationError: it cannot be read, or has several channels.
    """
    return _read(file, _label_ids)


def _read(file: str | Path, decode: Callable[[str | Path, Image.Image], np.ndarray]) -> np.ndarray:
    try:
        status = os.stat(file)
        key = decode, str(file), status.st_mtime_ns, status.st_size
        if getattr(_last, "key", None) == key:
            return _last.label  # type: ignore[no-any-return]
        with no_truncated_images(), Image.open(file) as image:
            label = decode(file, image)
    except (OSError, SyntaxError) as error:
        raise unreadable([Path(file)], error) from error
    label.flags.writeable = False
    _last.key, _last.label = key, label
    return label


def _panoptic_ids(file: str | Path, image: Image.Image) -> np.ndarray:
    if image.mode not in ("RGB", "RGBA"):
        raise EvaluationError(f"{file} is no panoptic label: its mode is {image.mode}, not RGB")
    pixels = np.asarray(image.convert("RGBA"))
    return pixels.view("<u4")[..., 0] & 0xFFFFFF  # (H, W, 4) bytes -> (H, W) numbers, less alpha


def _label_ids(file: str | Path, image: Image.Image) -> np.ndarray:
    pixels = np.array(image)
    if pixels.ndim != 2:
        raise EvaluationError(f"{file} is no label: it has {pixels.shape[2]} channels, not one")
    return pixels
