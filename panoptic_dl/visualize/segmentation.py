"""Draw a prediction over its image: panoptic, semantic, or its instances alone.

One pass over the pixels each for colors, blending and outlines: the number of segments hardly
matters. A panoptic map holds category * label_divisor + instance per pixel; -1 is void.

H W pixels, K classes, S segments.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from panoptic_dl.visualize.style import (
    Color,
    TextBox,
    draw_text_boxes,
    instance_color,
    line_width,
    place_caption,
    text_size,
)

WIDEST_TABLE = 1 << 22  # labels up to here are counted, larger ones sorted
LONGEST_SIDE = 512  # of the map that is searched for room
LEAST_SCORE = 0.05  # of instances that are named; weaker ones are specks without a meaning
GAP = 1  # pixels between two text boxes

Place = tuple[int, int]
"""(top, left) in pixels."""


@dataclass(kw_only=True, eq=False)
class SegmentDrawer:
    """Draws maps of one set of K classes."""

    names: Sequence[str]
    colors: Any  # RGB, 0..255
    thing_ids: Collection[int]  # classes with instances
    label_divisor: int  # of panoptic maps
    opacity: float = 0.55  # of the tint, 0..1
    labels: bool = True  # whether segments are named
    text_scale: float = 1.0  # of letters, for pictures that will be shown smaller

    def __post_init__(self) -> None:
        self.names = [name.split("-merged")[0] for name in self.names]
        self.colors = np.asarray(self.colors, np.uint8).reshape(-1, 3)
        self.thing_ids = frozenset(self.thing_ids)

    def panoptic(
        self,
        image: NDArray[np.uint8],
        panoptic: NDArray[np.integer],
        scores: Mapping[int, float] | None = None,
        caption: str | None = None,
    ) -> NDArray[np.uint8]:
        """Tint every segment, outline it, and name those that have room and a score for it.

        Args:
            image: (H, W, 3) RGB, 0..255.
            panoptic: (H, W).
            scores: of instances, by their labels in the map.
            caption: in the corner.

        Returns:
            (H, W, 3) RGB. Void keeps the image, darkened.
        """
        table = SegmentTable.of(panoptic)
        return self._draw(image, table, table.ids, scores or {}, caption)

    def semantic(
        self, image: NDArray[np.uint8], classes: NDArray[np.integer], caption: str | None = None
    ) -> NDArray[np.uint8]:
        """The same of a map (H, W) of classes; instances of a class are one."""
        table = SegmentTable.of(classes.astype(np.int32))
        labels = np.where(table.ids < 0, -1, table.ids * self.label_divisor)
        return self._draw(image, table, labels, {}, caption)

    def instances(
        self,
        image: NDArray[np.uint8],
        panoptic: NDArray[np.integer],
        scores: Mapping[int, float] | None = None,
        caption: str | None = None,
    ) -> NDArray[np.uint8]:
        """The same of things alone; all else is without color."""
        table = SegmentTable.of(panoptic)
        things = table.mask_of(self.are_things(table.ids))
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        plain = np.repeat((70 + gray * np.float32(0.55)).astype(np.uint8)[..., None], 3, axis=2)
        cv2.copyTo(image, things, plain)
        return self._draw(plain, table, table.ids, scores or {}, caption, only=things)

    def are_things(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each of (S,) labels is an instance of a thing."""
        return np.isin(labels // self.label_divisor, list(self.thing_ids)) & (labels >= 0)

    def legend(self, labels: NDArray[np.integer]) -> list[tuple[str, Color]]:
        """Names and colors of the classes of (S,) labels; things with their number."""
        classes = labels[labels >= 0] // self.label_divisor
        entries = []
        for category, count in zip(*np.unique(classes, return_counts=True), strict=True):
            suffix = f" ({count})" if category in self.thing_ids else ""
            red, green, blue = self.colors[category].tolist()
            entries.append((self.names[category] + suffix, (red, green, blue)))
        return entries

    def _draw(
        self,
        image: NDArray[np.uint8],
        table: "SegmentTable",
        labels: NDArray[np.integer],
        scores: Mapping[int, float],
        caption: str | None,
        only: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """`labels` (S,) are those of the segments; `only` (H, W) masks what is tinted."""
        colors = np.zeros((len(labels), 3), np.uint8)
        for row, label in enumerate(labels.tolist()):
            if label >= 0:  # the class's color, in a shade of its own for each instance
                category, instance = divmod(label, self.label_divisor)
                color = self.colors[category]
                colors[row] = instance_color(color, instance) if instance else color
        tint = table.paint(colors)
        blended = cv2.addWeighted(image, 1 - self.opacity, tint, self.opacity, 0)
        tinted = np.asarray(blended, np.uint8)
        things = self.are_things(labels)
        if only is not None:
            tinted = np.asarray(cv2.copyTo(tinted, only, image), np.uint8)
        _draw_outlines(tinted, table, things, stuff=only is None)
        size = round(text_size(image.shape) * self.text_scale)
        boxes = place_caption(image.shape, caption, round(size * 1.2))
        wanted = []
        # Things first, then the largest: they get the better places.
        for row in np.lexsort((-table.areas, ~things)).tolist() if self.labels else ():
            label = int(labels[row])
            if label < 0 or (only is not None and not things[row]):
                continue
            text = self.names[label // self.label_divisor]
            if label in scores:
                if scores[label] < LEAST_SCORE:
                    continue
                text += f" {scores[label]:.2f}"
            red, green, blue = colors[row].tolist()
            box = TextBox(text, size, (red, green, blue))
            high, wide = box.extent
            if table.areas[row] >= (0.5 if things[row] else 1.5) * high * wide:
                wanted.append((row, box))
        places = _place_labels(
            table.index,
            [(row, box.extent) for row, box in wanted],
            [((top, left), box.extent) for box, top, left in boxes],
        )
        for (_, box), place in zip(wanted, places, strict=True):
            if place is not None:
                boxes.append((box, *place))
        return draw_text_boxes(tinted, boxes)


def _draw_outlines(
    picture: NDArray[np.uint8], table: "SegmentTable", things: NDArray[np.bool_], *, stuff: bool
) -> None:
    """Bright lines around things; faint ones between stuff, if wanted. Changes `picture`."""
    width = line_width(picture.shape)
    edges = table.edges(width)
    near = cv2.dilate(table.mask_of(things), np.ones((2 * width + 1,) * 2, np.uint8))
    white = np.full_like(picture, 255)
    around = cv2.bitwise_and(edges, near)
    cv2.copyTo(cv2.addWeighted(picture, 0.2, white, 0.8, 0), around, picture)
    if stuff:
        between = cv2.bitwise_and(edges, cv2.bitwise_not(near))
        cv2.copyTo(cv2.addWeighted(picture, 0.6, white, 0.4, 0), between, picture)


@dataclass(frozen=True)
class SegmentTable:
    """The segments of a map of labels: colors and areas come from it, never from masks."""

    ids: NDArray[np.int64]  # (S,) the labels that occur, ascending
    index: NDArray[np.integer]  # (H, W) the place of each pixel's label in `ids`; uint8 if it fits
    areas: NDArray[np.int64]  # (S,) in pixels

    @classmethod
    def of(cls, labels: NDArray[np.integer]) -> "SegmentTable":
        """Of a map (H, W) of labels from -1, which mostly means void."""
        highest = int(labels.max(initial=-1))
        if highest >= WIDEST_TABLE:
            ids, index, areas = np.unique(labels, return_inverse=True, return_counts=True)
            index = index.reshape(labels.shape)
        else:
            slots = labels + 1
            counts = np.bincount(slots.reshape(-1), minlength=1)
            found = np.flatnonzero(counts)
            ids, areas = found - 1, counts[found]
            table = np.zeros(len(counts), np.uint16)
            table[found] = np.arange(len(found))
            index = table[slots]
        return cls(ids, index.astype(np.uint8 if len(ids) <= 256 else np.uint16), areas)

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) of each segment in pixels, right and bottom exclusive."""
        found = find_objects(self.index.astype(np.int32) + 1, max_label=len(self.ids))
        return [(x.start, y.start, x.stop, y.stop) for y, x in found]

    def paint(self, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) of the colors (S, 3) of the segments."""
        if self.index.dtype == np.uint8:
            table = np.zeros((1, 256, 3), np.uint8)
            table[0, : len(colors)] = colors
            return np.asarray(cv2.LUT(cv2.merge([self.index] * 3), table), np.uint8)
        return colors[self.index]

    def mask_of(self, wanted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(H, W) mask, 255 where the segment (of (S,) bool) is wanted, else 0."""
        if self.index.dtype == np.uint8:
            table = np.zeros(256, np.uint8)
            table[: len(wanted)] = wanted * np.uint8(255)
            return np.asarray(cv2.LUT(self.index, table), np.uint8)
        return (wanted * np.uint8(255))[self.index]

    def edges(self, thickness: int = 1) -> NDArray[np.uint8]:
        """(H, W) mask, 255 on lines of `thickness` pixels between segments, else 0."""
        index = self.index
        edge = np.zeros(index.shape, np.uint8)
        edge[1:] |= index[1:] != index[:-1]
        edge[:, 1:] |= index[:, 1:] != index[:, :-1]
        square = np.ones((thickness, thickness), np.uint8)
        return np.asarray(cv2.dilate(edge * np.uint8(255), square), np.uint8)


def _place_labels(
    index: NDArray[np.integer],
    wanted: Sequence[tuple[int, tuple[int, int]]],
    taken: Sequence[tuple[Place, tuple[int, int]]] = (),
) -> list[Place | None]:
    """(top, left) of each label in its segment, or else above or below it; None where no room is.

    `index` has the segments (H, W), from 0; `wanted` the segment of each label, the first ones
    first, and its (height, width) in pixels; `taken` what is in the picture already, so too.
    """
    height, width = index.shape
    step = -(-max(height, width) // LONGEST_SIDE)
    small = np.ascontiguousarray(index[step // 2 :: step, step // 2 :: step])
    if not small.size:
        small, step = index, 1
    room = _distance_to_edges(small)
    windows = find_objects(small.astype(np.int32) + 1)
    boxes = [(top, left, top + h, left + w) for (top, left), (h, w) in taken]

    def free(
        tops: NDArray[np.integer], lefts: NDArray[np.integer], high: int, wide: int
    ) -> NDArray[np.bool_]:
        """Whether a box at each of these corners touches no other one, (tops, lefts)."""
        found = np.ones((len(tops), len(lefts)), bool)
        for y0, x0, y1, x1 in boxes:
            rows = (tops < y1 + GAP) & (tops + high + GAP > y0)
            columns = (lefts < x1 + GAP) & (lefts + wide + GAP > x0)
            found[np.ix_(rows, columns)] = False
        return found

    places: list[Place | None] = []
    for segment, (high, wide) in wanted:
        window = windows[segment] if segment < len(windows) else None
        places.append(None)
        if window is None or high > height or wide > width:
            continue
        # Centers of pixels of the segment, in the picture's pixels.
        ys = np.arange(window[0].start, window[0].stop) * step + step // 2
        xs = np.arange(window[1].start, window[1].stop) * step + step // 2
        # A center near the border of the picture moves in until the box is inside.
        tops = np.clip(ys - high // 2, 0, height - high)
        lefts = np.clip(xs - wide // 2, 0, width - wide)
        inside = room[window] * (free(tops, lefts, high, wide) & (small[window] == segment))
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
        if not inside[y, x]:
            tops = np.array([ys[0] - high - GAP, ys[-1] + GAP])
            lefts = np.clip([int(xs.mean()) - wide // 2], 0, width - wide)
            fits = (tops >= 0) & (tops <= height - high) & free(tops, lefts, high, wide)[:, 0]
            if not fits.any():
                continue
            y, x = fits.argmax(), np.intp(0)
        places[-1] = top, left = int(tops[y]), int(lefts[x])
        boxes.append((top, left, top + high, left + wide))
    return places


def _distance_to_edges(index: NDArray[np.integer]) -> NDArray[np.float32]:
    """(H, W) of how far each pixel is from another segment, or from the border of the picture."""
    inner = np.zeros((index.shape[0] + 2, index.shape[1] + 2), np.uint8)
    inside = inner[1:-1, 1:-1]
    inside[:] = 1
    inside[1:] &= index[1:] == index[:-1]
    inside[:, 1:] &= index[:, 1:] == index[:, :-1]
    distance = cv2.distanceTransform(inner, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return distance + 0.5  # segments of a line's width have room, too
