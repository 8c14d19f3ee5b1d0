"""Where the names of segments go: inside of them where there is room, never over each other.

H W pixels of the picture; a place is (top, left) of a plate, a centre (y, x).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

LONGEST_SIDE = 512  # of the map that is searched for room
GAP = 1  # pixels between two plates

Place = tuple[int, int]


def place_labels(
    index: NDArray[np.integer],
    wanted: Sequence[tuple[int, tuple[int, int]]],
    taken: Sequence[tuple[Place, tuple[int, int]]] = (),
) -> list[Place | None]:
    """Find places for labels, the first ones first.

    A label goes where its segment is widest among the places that are free; if none is, above or
    below the segment.

    Args:
        index: (H, W) segments, from 0.
        wanted: the segment of each label and its extent (height, width) in pixels.
        taken: places and extents of what is in the picture already.

    Returns:
        (top, left) of each label, or None where there is no room.
    """
    height, width = index.shape
    step = -(-max(height, width) // LONGEST_SIDE)
    small = np.ascontiguousarray(index[step // 2 :: step, step // 2 :: step])
    if not small.size:
        small, step = index, 1
    room = _distance_to_edges(small)
    windows = find_objects(small.astype(np.int32) + 1)
    boxes = [(top, left, top + h, left + w) for (top, left), (h, w) in taken]
    places: list[Place | None] = []
    for segment, (high, wide) in wanted:
        window = windows[segment] if segment < len(windows) else None
        if window is None or high > height or wide > width:
            places.append(None)
            continue
        inside = np.where(small[window] == segment, room[window], 0)
        top, left = window[0].start, window[1].start
        # Centres of pixels of the segment, in the picture's pixels.
        ys = (np.arange(inside.shape[0]) + top) * step + step // 2
        xs = (np.arange(inside.shape[1]) + left) * step + step // 2
        # A centre near the border of the picture moves in until the plate is whole.
        tops = np.clip(ys - high // 2, 0, height - high)
        lefts = np.clip(xs - wide // 2, 0, width - wide)
        free = inside.copy()
        for y0, x0, y1, x1 in boxes:
            rows = (tops < y1 + GAP) & (tops + high + GAP > y0)
            columns = (lefts < x1 + GAP) & (lefts + wide + GAP > x0)
            free[np.ix_(rows, columns)] = 0
        place: Place | None = None
        if free.max(initial=0) > 0:
            y, x = np.unravel_index(int(free.argmax()), free.shape)
            place = int(tops[y]), int(lefts[x])
        else:
            middle = int(np.clip(int(xs.mean()) - wide // 2, 0, width - wide))
            for outside in (int(ys[0]) - high - GAP, int(ys[-1]) + GAP):
                if 0 <= outside <= height - high and _is_free(
                    (outside, middle, outside + high, middle + wide), boxes
                ):
                    place = outside, middle
                    break
        places.append(place)
        if place is not None:
            boxes.append((place[0], place[1], place[0] + high, place[1] + wide))
    return places


def _is_free(box: tuple[int, int, int, int], boxes: Sequence[tuple[int, int, int, int]]) -> bool:
    top, left, bottom, right = box
    return not any(
        top < y1 + GAP and bottom + GAP > y0 and left < x1 + GAP and right + GAP > x0
        for y0, x0, y1, x1 in boxes
    )


def _distance_to_edges(index: NDArray[np.integer]) -> NDArray[np.float32]:
    """(H, W) of how far each pixel is from another segment, or from the border of the picture."""
    inner = np.zeros((index.shape[0] + 2, index.shape[1] + 2), np.uint8)
    inside = inner[1:-1, 1:-1]
    inside[:] = 1
    inside[1:] &= index[1:] == index[:-1]
    inside[:, 1:] &= index[:, 1:] == index[:, :-1]
    distance = cv2.distanceTransform(inner, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return distance + 0.5  # segments of a line's width have room, too
