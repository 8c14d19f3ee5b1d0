"""Images with maps of their classes, of a size to be sent somewhere.

H W pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST = 1024  # pixels


@dataclass(frozen=True)
class Sample:
    """An image, and which class each of its pixels has and is taken for; -1: none."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3), RGB
    truth: NDArray[np.int64]  # (H, W) contiguous classes
    prediction: NDArray[np.int64]  # (H, W)


def sample(
    name: str,
    image: NDArray[np.uint8],
    truth: NDArray[np.int64],
    prediction: NDArray[np.int64],
    label_divisor: int,
) -> Sample:
    """Of panoptic maps (H, W), shrunk so that the longer side is `LONGEST` at most.

    Args:
        truth, prediction: category * label_divisor + instance; negative: void. They may be of
            another size than the image and come out in the image's.
    """
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    maps = [
        _nearest(np.where(each < 0, -1, each // label_divisor), size)
        for each in (truth, prediction)
    ]
    return Sample(name, shrunk, *maps)


def _nearest(classes: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Of the pixels nearest to the centres of those of a map of `size` (width, height)."""
    (height, width), (new_width, new_height) = classes.shape, size
    rows = np.minimum(((np.arange(new_height) + 0.5) * height / new_height).astype(int), height - 1)
    columns = np.minimum(((np.arange(new_width) + 0.5) * width / new_width).astype(int), width - 1)
    return classes[rows[:, None], columns[None, :]]
