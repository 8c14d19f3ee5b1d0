"""Draw a prediction over its image: panoptic, semantic, or its instances alone.

One pass over the pixels each for colors, blending and outlines: the number of segments hardly
matters. A panoptic map holds category * label_divisor + instance per pixel; -1 is void.

H W pixels, K classes, S segments.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.visualize.style import (
    Color,
    TextBox,
    draw_text_boxes,
    instance_color,
    line_width,
    place_caption,
    text_size,
)

LONGEST_SIDE = 512  # of the map that is searched for room
SPECK = 1e-4  # share of the picture below which a segment is only tinted
GAP = 1  # pixels between two text boxes
ROWS = 64  # that are blended at once: the processor's cache holds them
STRAIGHT, DIAGONAL = 62587, 89738  # lengths of steps between pixels, in 65,536ths of a pixel

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
    scores: bool = False  # whether the scores of instances stand behind their names
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
        """Tint every segment; outline those that are no specks, and name those that have room.

        `scores` are those of instances, by their labels in the map. Void is the image, darkened.
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
        gray = Image.fromarray(image).convert("L").point([int(70 + 0.55 * x) for x in range(256)])
        plain = np.array(gray.convert("RGB"))
        _paste(image, things, plain)
        return self._draw(plain, table, table.ids, scores or {}, caption, only=things)

    def are_things(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each of (S,) labels is an instance of a thing."""
        return np.isin(labels // self.label_divisor, list(self.thing_ids)) & (labels >= 0)

    def legend(self, table: "SegmentTable", labels: NDArray[np.integer]) -> list[tuple[str, Color]]:
        """Names and colors of classes, with numbers of instances; of (S,) labels of 0 and above."""
        shown = labels[(labels >= 0) & table.are_visible()]
        categories, instances = np.divmod(shown, self.label_divisor)
        entries = []
        for category in np.unique(categories).tolist():
            number = np.count_nonzero(instances[categories == category])
            red, green, blue = self.colors[category].tolist()
            name = self.names[category] + (f" ({number})" if number else "")
            entries.append((name, (red, green, blue)))
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
        tinted = _blend(image, table.paint(colors), self.opacity)
        things = self.are_things(labels) & table.are_visible()
        if only is not None:
            _paste(image, ~only, tinted)
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
            if self.scores and label in scores:
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


def _blend(image: NDArray[np.uint8], tint: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """An image (H, W, 3) below a tint of it, which has an opacity of 0..1."""
    blended = np.empty_like(image)
    for start in range(0, len(image), ROWS):
        rows = slice(start, start + ROWS)
        part = image[rows] * np.float32(1 - opacity)
        part += tint[rows] * np.float32(opacity)
        blended[rows] = np.rint(part)
    return blended


def _paste(source: NDArray[np.uint8], mask: NDArray[np.uint8], picture: NDArray[np.uint8]) -> None:
    """Copy the pixels of `source` (H, W, 3) where a mask (H, W) is not 0. Changes `picture`."""
    pixels = "V3"  # a pixel's three bytes at once
    source = np.ascontiguousarray(source)
    np.copyto(picture.view(pixels), source.view(pixels), where=mask[..., None] > 0)


def _draw_outlines(
    picture: NDArray[np.uint8], table: "SegmentTable", things: NDArray[np.bool_], *, stuff: bool
) -> None:
    """Bright lines around things; faint ones between stuff, if wanted. Changes `picture`."""
    width = line_width(picture.shape)
    edges = table.edges(width)
    near = _dilate(table.mask_of(things), 2 * width + 1)
    pixels = picture.reshape(-1, 3)
    for mask, opacity in ((edges & near, 0.8), (edges & ~near, 0.4 if stuff else 0.0)):
        line = np.flatnonzero(mask > 0) if opacity else ()
        whiter = np.rint(np.arange(256) * (1 - opacity) + 255 * opacity).astype(np.uint8)
        pixels[line] = whiter[pixels[line]]


def _dilate(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A mask (H, W) that also has the pixels in a square of this side around each of its own."""
    for _ in range(2):  # columns, then rows
        grown = mask.copy(order="K")
        for shift in range(1, side // 2 + 1):
            grown[shift:] |= mask[:-shift]
            if shift < side - side // 2:
                grown[:-shift] |= mask[shift:]
        mask = grown.T
    return mask


@dataclass(frozen=True)
class SegmentTable:
    """The segments of a map of labels: colors and areas come from it, never from masks."""

    ids: NDArray[np.int64]  # (S,) the labels that occur, ascending
    index: NDArray[np.integer]  # (H, W) the place of each pixel's label in `ids`; uint8 if it fits
    areas: NDArray[np.int64]  # (S,) in pixels

    @classmethod
    def of(cls, labels: NDArray[np.integer]) -> "SegmentTable":
        """Of a map (H, W) of labels from -1, which mostly means void."""
        starts, values = _runs(labels)
        ids, segments = np.unique(values, return_inverse=True)
        lengths = np.diff(starts, append=labels.size)
        areas = np.bincount(segments, lengths, len(ids)).astype(np.int64)
        segments = segments.astype(np.uint8 if len(ids) <= 256 else np.uint16)
        return cls(ids.astype(np.int64), np.repeat(segments, lengths).reshape(labels.shape), areas)

    def are_visible(self) -> NDArray[np.bool_]:
        """Whether each of (S,) segments is more than a speck in the picture."""
        return self.areas >= SPECK * self.index.size

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) of each segment in pixels, right and bottom exclusive."""
        return [tuple(box) for box in _boxes(self.index, len(self.ids)).tolist()]

    def paint(self, colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) of the colors (S, 3) of the segments."""
        if self.index.dtype == np.uint8:  # Pillow is twice as fast
            image = Image.fromarray(self.index)
            image.putpalette(colors.tobytes())
            return np.asarray(image.convert("RGB"))
        return colors.take(self.index, axis=0)

    def mask_of(self, wanted: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """(H, W) mask, 255 where the segment (of (S,) bool) is wanted, else 0."""
        return (wanted * np.uint8(255)).take(self.index)

    def edges(self, thickness: int = 1) -> NDArray[np.uint8]:
        """(H, W) mask, 255 on lines of `thickness` pixels between segments, else 0."""
        index = self.index
        edge = np.zeros(index.shape, np.uint8)
        edge[1:] |= index[1:] != index[:-1]
        edge[:, 1:] |= index[:, 1:] != index[:, :-1]
        return _dilate(edge * np.uint8(255), thickness)


def _runs(labels: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.integer]]:
    """Where runs of one label begin in the rows of a map (H, W), counted in pixels; their labels.

    There are far fewer of them than of pixels.
    """
    begins = np.ones(labels.shape, bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    return starts, labels.reshape(-1)[starts]


def _boxes(index: NDArray[np.integer], number: int) -> NDArray[np.int64]:
    """(S, 4) x0, y0, x1, y1 of each of so many segments of (H, W); zeros of one without pixels."""
    starts, segments = _runs(index)
    y, left = np.divmod(starts, index.shape[1])
    right = left + np.diff(starts, append=index.size)
    boxes = np.zeros((number, 4), np.int64)
    boxes[segments, 0] = index.shape[1]
    np.minimum.at(boxes[:, 0], segments, left)
    np.maximum.at(boxes[:, 2], segments, right)
    boxes[segments[::-1], 1] = y[::-1]  # rows ascend, and the last one that is written stays
    boxes[segments, 3] = y + 1
    return boxes


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
    windows = _boxes(small, max([int(small.max()), *(row for row, _ in wanted)]) + 1).tolist()
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
        x0, y0, x1, y1 = windows[segment]
        places.append(None)
        if x0 == x1 or high > height or wide > width:
            continue
        window = slice(y0, y1), slice(x0, x1)
        # Centers of pixels of the segment, in the picture's pixels.
        ys = np.arange(y0, y1) * step + step // 2
        xs = np.arange(x0, x1) * step + step // 2
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
    """(H, W) of how far each pixel is from another segment, or from the border of the picture.

    The length of the shortest way in steps to neighbors (Borgefors, "Distance transformations in
    digital images", 1986), as `cv2.distanceTransform` with `DIST_L2` and a 3 x 3 mask has it.
    """
    padded = np.zeros((index.shape[0] + 2, index.shape[1] + 2), np.int32)
    inside = padded[1:-1, 1:-1]
    inside[:] = 1 << 30
    inside[1:] *= index[1:] == index[:-1]
    inside[:, 1:] *= index[:, 1:] == index[:, :-1]
    along = np.arange(padded.shape[1], dtype=np.int32) * STRAIGHT
    for _ in range(2):  # from above and the left, then from below and the right
        for above, row in pairwise(padded):
            steps = np.minimum(above[:-2], above[2:]) + DIAGONAL
            np.minimum(steps, above[1:-1] + STRAIGHT, out=steps)
            np.minimum(row[1:-1], steps, out=row[1:-1])
            np.minimum.accumulate(row - along, out=row)
            row += along
        padded = padded[::-1, ::-1]
    return padded[1:-1, 1:-1] / np.float32(65536) + np.float32(0.5)  # lines have room, too
