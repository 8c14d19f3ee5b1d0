"""COCO's masks, checked: pycocotools decodes damaged codes to random pixels, or crashes.

Shapes: H W pixels.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

OFFSET = 48  # of the characters of compressed codes
MORE, SIGN = 0x20, 0x10
FAR = 10  # widths or heights: pycocotools takes memory for each pixel of an edge, also outside


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask, (H, W) bool: "size" [H, W] and "counts", fit for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_mask(code: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Read what JSON holds, a code, compressed or as a list of counts: (H, W) bool.

    ValueError: it is no run-length code, is not of `size` (height, width), or does not end where
    the mask ends.
    """
    runs = _runs(code, size)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> dict[str, Any]:
    """The compressed code of an annotation's "segmentation": polygons, or a code of either kind.

    Polygons have no `polygon_fault`, `size` is (height, width). ValueError says why it cannot be a
    mask of that image.
    """
    if not segmentation:
        raise ValueError("it has a box and no mask, and the pixels are needed")
    if isinstance(segmentation, dict):
        runs = _runs(segmentation, size)
        code = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
    elif not isinstance(segmentation, list):
        raise ValueError('its "segmentation" is neither polygons nor a run-length code')
    else:
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    return {"size": list(size), "counts": code["counts"].decode("ascii")}


def polygon_fault(polygon: Any, size: tuple[int, int]) -> str:
    """Why something is no polygon [x, y, x, y, ...] in an image of (height, width); "" if it is."""
    if not isinstance(polygon, list):
        return f"a polygon is {polygon!r:.40}; write a list of polygons, [[x, y, x, y, ...], ...]"
    if odd := [value for value in polygon if type(value) not in (int, float)]:
        return f"a polygon has {odd[0]!r:.40} in place of a number"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"a polygon has {len(polygon)} numbers, not x and y of three points or more"
    for start, side in ((0, size[1]), (1, size[0])):
        for value in polygon[start::2]:
            if not -FAR * side <= value <= (FAR + 1) * side:  # NaN neither
                return (
                    f"a polygon has the coordinate {value!r:.20}, far outside of an image of "
                    f"{size[1]} x {size[0]} (width x height)"
                )
    return ""


def _runs(code: Any, size: tuple[int, int]) -> list[int]:
    """Pixels of each run of a code as JSON holds it; see `decode_mask`."""
    if not isinstance(code, dict) or "size" not in code or "counts" not in code:
        raise ValueError(
            'a "segmentation" is no run-length code (size and counts); encode polygons with '
            "pycocotools' mask.frPyObjects"
        )
    listed, counts = code["size"], code["counts"]
    if not isinstance(listed, list) or listed != list(size):
        listed = tuple(listed) if isinstance(listed, list) else repr(listed)
        raise ValueError(
            f"a mask is {listed}, the image {size} (height, width): masks must have the size of "
            "the image file"
        )
    problem = "its counts do not add up to the mask"
    runs: list[int] = []
    if isinstance(counts, str):
        try:
            runs, problem = run_lengths(counts), "it ends too early"
        except ValueError as error:
            problem = str(error)
    elif not isinstance(counts, list):
        problem = "its counts are no text"
    elif odd := [count for count in counts if type(count) not in (int, float) or count % 1]:
        problem = f"it has {odd[0]!r:.40} in place of a whole number of pixels"
    else:
        runs = [int(count) for count in counts]
    total = size[0] * size[1]
    if min(runs, default=-1) < 0 or sum(runs) != total:
        if isinstance(counts, str) and sum(runs) > total:
            problem = "it is longer than the mask"
        raise ValueError(f"a mask has a damaged run-length code: {problem}")
    return runs


def run_lengths(counts: str) -> list[int]:
    """Pixels of each run of a compressed code, from groups of five bits, lowest first.

    From the fourth run on they are differences to the run two before. ValueError for a character
    that no code has, or an end within a number.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        group = ord(character) - OFFSET
        if not 0 <= group < 2 * MORE or shift > 60:
            raise ValueError(f"it has the character {character!r}, which no code has there")
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & MORE:
            if group & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise ValueError("it ends too early")
    return runs
