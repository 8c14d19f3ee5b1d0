"""Which segment each pixel of a panoptic label belongs to, without sorting pixels.

A look-up table over all 2^24 ids (32 MB) costs a few milliseconds for 1024 x 2048 pixels;
`numpy.unique` takes a hundred. Each thread has its own, empty between two calls.
"""

import threading
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

NUM_IDS = 256**3  # ids that three bytes hold

_of_thread = threading.local()


def segment_numbers(ids: NDArray[np.integer], segment_ids: Sequence[int]) -> NDArray[np.uint16]:
    """(H, W): 1 + position of the pixel's id in `segment_ids`, 0 where it is none of them.

    Args:
        ids: (H, W), 0..2^24-1.
        segment_ids: no two the same. One that no pixel can have does no harm.

    Raises:
        ValueError: an id comes twice, or there are more than 65,535.
    """
    if len(set(segment_ids)) != len(segment_ids):
        twice = next(i for n, i in enumerate(segment_ids) if i in segment_ids[:n])
        raise ValueError(f"two segments have the id {twice}")
    if len(segment_ids) >= 2**16:
        raise ValueError(f"{len(segment_ids)} segments in an image; 65535 are the most")
    table = getattr(_of_thread, "table", None)
    if table is None:
        table = _of_thread.table = np.zeros(NUM_IDS, np.uint16)
    # Entries of no segment stay 0: filling the table each time is not free.
    keys, numbers = np.asarray(segment_ids, np.int64), np.arange(1, len(segment_ids) + 1)
    possible = (keys >= 0) & (keys < NUM_IDS)
    keys = keys[possible]
    table[keys] = numbers[possible]
    try:
        found: NDArray[np.uint16] = table[ids]
    finally:
        table[keys] = 0
    return found


def colors_to_ids(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The ids, R + 256 G + 256^2 B, of colours (H, W, 3): `panopticapi.utils.rgb2id`, faster."""
    if not colors.size:  # which OpenCV refuses
        return np.zeros(colors.shape[:2], np.uint32)
    four_bytes = cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2RGBA)
    ids: NDArray[np.uint32] = four_bytes.view("<u4")[:, :, 0]
    ids &= 0xFFFFFF
    return ids


def ids_to_colors(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The colours (H, W, 3) of ids (H, W): `panopticapi.utils.id2rgb`, faster."""
    four_bytes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return four_bytes.reshape(*ids.shape, 4)[:, :, :3].copy()
