"""COCO's run-length code of masks, checked: pycocotools decodes a cut one to random pixels.

Shapes: H W pixels.
"""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

OFFSET = 48  # of the characters of compressed codes
MORE, SIGN = 0x20, 0x10


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask, (H, W) bool: "size" [H, W] and "counts", fit for JSON."""
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode("ascii")}


def decode_mask(code: Any, size: tuple[int, int]) -> np.ndarray:
    """Read a code, compressed or as a list of counts: (H, W) bool.

    Args:
        code: what JSON holds.
        size: (height, width) as it must be.

    Raises:
        ValueError: it is no run-length code, is of another size, or does not end where the mask
            ends.
    """
    if not isinstance(code, dict) or "size" not in code or "counts" not in code:
        raise ValueError(
            'a "segmentation" is no run-length code (size and counts); encode polygons with '
            "pycocotools' mask.frPyObjects"
        )
    if list(code["size"]) != list(size):
        raise ValueError(
            f"a mask is {tuple(code['size'])}, the image {size} (height, width): masks must "
            "have the size of the image file"
        )
    counts = code["counts"]
    try:
        if isinstance(counts, list):
            runs = [int(count) for count in counts]
            if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
                raise ValueError("its counts do not add up to the mask")
            code = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)
        elif not isinstance(counts, str):
            raise ValueError("its counts are no text")
        mask: np.ndarray = coco_mask.decode(code)
        # Codes as pycocotools writes them come back the same; others are read slowly.
        is_odd = isinstance(counts, str) and encode_mask(mask)["counts"] != counts
        if is_odd and sum(run_lengths(counts)) != size[0] * size[1]:
            raise ValueError("it ends too early")
    except ValueError as error:
        raise ValueError(f"a mask has a damaged run-length code: {error}") from error
    return mask.astype(bool)


def run_lengths(counts: str) -> list[int]:
    """Pixels of each run of a compressed code, from groups of five bits, lowest first.

    From the fourth run on they are differences to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for byte in counts.encode("ascii"):
        group = byte - OFFSET
        value |= (group & 0x1F) << shift
        shift += 5
        if not group & MORE:
            if group & SIGN:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs
