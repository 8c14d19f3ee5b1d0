"""Draw a panoptic or semantic map over its image.

H W pixels. A panoptic map holds category * label_divisor + instance per pixel; -1 is void.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt, find_objects

from .palette import instance_color


def draw_segments(
    image: NDArray[np.uint8],
    panoptic: NDArray[np.integer],
    *,
    colors: NDArray[np.uint8],
    names: Sequence[str],
    label_divisor: int,
    opacity: float = 0.6,
) -> NDArray[np.uint8]:
    """Tint every segment, outline it, and name those that are large enough to read.

    Args:
        image: (H, W, 3) RGB, 0..255.
        panoptic: (H, W).
        colors: (K, 3) RGB of the contiguous class ids.
        names: K class names.
        label_divisor: see the module's legend.
        opacity: of the tint, 0..1.

    Returns:
        (H, W, 3) RGB, 0..255. Void keeps the image, darkened.
    """
    ids, inverse = np.unique(panoptic, return_inverse=True)
    inverse = inverse.reshape(panoptic.shape)
    table = np.zeros((len(ids), 3), np.float32)
    for row, label in enumerate(ids):
        if label >= 0:
            category, instance = divmod(int(label), label_divisor)
            color = colors[category]
            table[row] = instance_color(color, instance) if instance else color
    picture = image * (1 - opacity) + table[inverse] * opacity
    edge = _edges(inverse)
    picture[edge] = picture[edge] * 0.35 + 255 * 0.65
    canvas = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    _write_names(canvas, ids, inverse, names, label_divisor)
    return np.asarray(canvas)


def _edges(segments: NDArray[np.integer]) -> NDArray[np.bool_]:
    edge = np.zeros(segments.shape, bool)
    edge[1:] |= segments[1:] != segments[:-1]
    edge[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    return edge


def _innermost(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The pixel (y, x) of a mask that is farthest from its border and from the image's."""
    rows, columns = find_objects(mask.astype(np.uint8))[0]
    distance = distance_transform_edt(np.pad(mask[rows, columns], 1))
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(rows.start + y - 1), float(columns.start + x - 1)


def _write_names(
    canvas: Image.Image,
    ids: NDArray[np.integer],
    inverse: NDArray[np.integer],
    names: Sequence[str],
    label_divisor: int,
) -> None:
    """Put class names at the centres of segments that are wide enough for them."""
    size = max(10, canvas.height // 36)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(canvas)
    areas = np.bincount(inverse.ravel(), minlength=len(ids))
    for row in np.argsort(-areas):
        if ids[row] < 0:
            continue
        name = names[int(ids[row]) // label_divisor].split("-merged")[0]
        width = draw.textlength(name, font=font)
        if areas[row] < 2.5 * width * size:
            continue
        y, x = _innermost(inverse == row)
        draw.text(
            (min(max(x, width / 2), canvas.width - width / 2), y),
            name,
            font=font,
            anchor="mm",
            fill="white",
            stroke_width=max(1, size // 8),
            stroke_fill=(20, 20, 20),
        )
