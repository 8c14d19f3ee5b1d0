"""Draw a prediction over its image: panoptic, semantic, or its instances alone.

One pass over the pixels each for colours, blending and outlines: the number of segments hardly
matters. H W pixels, K classes. A panoptic map holds category * label_divisor + instance per pixel;
-1 is void.

The segments of a map as a small table: colours and sizes come from it, never from masks.

H W pixels, S segments.

Where the names of segments go: inside of them where there is room, never over each other.

H W pixels of the picture; a place is (top, left) of a plate, a centre (y, x).

Colours of classes and of the instances within a class.

Text in pictures: fonts, and sizes that suit a picture's.

H W pixels.
"""

import colorsys
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects

WIDEST_TABLE = 1 << 22  # labels up to here are counted, larger ones sorted


@dataclass(frozen=True)
class SegmentTable:
    """What a map of labels holds.

    Attributes:
        ids: (S,) the labels that occur, ascending.
        index: (H, W) the place of each pixel's label in `ids`; uint8 where that is enough.
        areas: (S,) in pixels.
    """

    ids: NDArray[np.int64]
    index: NDArray[np.integer]
    areas: NDArray[np.int64]

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
        """(H, W, 3) of the colours (S, 3) of the segments."""
        if self.index.dtype == np.uint8:
            table = np.zeros((1, 256, 3), np.uint8)
            table[0, : len(colors)] = colors
            return np.asarray(cv2.LUT(cv2.merge([self.index] * 3), table), np.uint8)
        return colors[self.index]

    def choose(self, wanted: NDArray[np.bool_]) -> NDArray[np.uint8]:
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
        edge *= 255
        if thickness > 1:
            square = np.ones((thickness, thickness), np.uint8)
            return np.asarray(cv2.dilate(edge, square), np.uint8)
        return edge


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


Color = tuple[int, int, int]


def class_colors(metadata: Any, num_classes: int) -> NDArray[np.uint8]:
    """RGB of every contiguous class id, (K, 3).

    The dataset's own colours where its Detectron2 metadata has them for all classes, else hues that
    are far apart for neighbouring ids.
    """
    for key in ("stuff_colors", "thing_colors"):
        colors = metadata.get(key, None)
        if colors is not None and len(colors) == num_classes:
            return np.asarray(colors, np.uint8)
    golden = 0.618033988749895
    hues = [(i * golden) % 1.0 for i in range(num_classes)]
    rgb = [colorsys.hsv_to_rgb(h, 0.65, 0.95 - 0.3 * (i % 2)) for i, h in enumerate(hues)]
    return (np.asarray(rgb) * 255).round().astype(np.uint8)


def instance_color(color: NDArray[np.uint8], instance: int) -> NDArray[np.uint8]:
    """A shade of a class's RGB colour (3,) that tells neighbouring instances apart."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(color / 255.0))
    turn = (instance * 0.618033988749895) % 1.0
    hue = (hue + 0.16 * (turn - 0.5)) % 1.0
    value = min(1.0, max(0.35, value + 0.45 * (((instance * 0.7548776662) % 1.0) - 0.35)))
    saturation = min(1.0, max(0.35, saturation))
    return (np.asarray(colorsys.hsv_to_rgb(hue, saturation, value)) * 255).astype(np.uint8)


SMALLEST = 10  # pixels of a letter that can be read

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_of_thread = threading.local()


def font(size: int) -> Font:
    """Pillow's own font; each thread has its own, for FreeType's are not for several at once."""
    fonts: dict[int, Font] = _of_thread.__dict__.setdefault("fonts", {})
    if size not in fonts:
        fonts[size] = ImageFont.load_default(size)
    return fonts[size]


def text_size(shape: Sequence[int]) -> int:
    """Pixels of letters for a picture (H, W, ...): a 52nd of the side of a square as large."""
    return max(SMALLEST, round(math.sqrt(shape[0] * shape[1]) / 52))


def line_width(shape: Sequence[int]) -> int:
    """Pixels of a thin line in a picture (H, W, ...)."""
    return max(1, round(math.sqrt(shape[0] * shape[1]) / 800))


@dataclass(frozen=True)
class Plate:
    """A text on a dark plate with round corners, and a mark in a colour at its left."""

    text: str
    size: int  # pixels of letters
    color: tuple[int, int, int] | None = None  # RGB of the mark; None: no mark

    @property
    def pad(self) -> int:
        return max(2, round(self.size * 0.32))

    @property
    def mark(self) -> int:
        """Width of the mark in pixels."""
        return 0 if self.color is None else max(2, round(self.size * 0.28))

    @property
    def extent(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        width = math.ceil(font(self.size).getlength(self.text)) + 2 * self.pad + self.mark
        return round(self.size * 1.5), width


def corner(shape: Sequence[int], plate: Plate) -> tuple[int, int]:
    """(top, left) of a caption: a little off the upper left corner, if there is room."""
    margin = plate.size // 2
    high, wide = plate.extent
    return min(margin, shape[0] - high), min(margin, shape[1] - wide)


def _lifted(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour that can be told from the dark plate: dark ones become brighter."""
    red, green, blue = color
    missing = max(0.0, 90 - (0.299 * red + 0.587 * green + 0.114 * blue)) / 255
    red, green, blue = (round(part + (255 - part) * missing) for part in color)
    return red, green, blue


def write_plates(
    picture: NDArray[np.uint8], plates: Sequence[tuple[Plate, int, int]]
) -> NDArray[np.uint8]:
    """Draw plates into a picture (H, W, 3), each with its top and left in pixels; return a copy."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for plate, top, left in plates:
        height, width = plate.extent
        radius = max(1, round(plate.size * 0.3))
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=200)
        canvas.paste((16, 16, 20), (left, top), mask)
        if plate.color is not None:
            inset = max(1, plate.pad // 2)
            draw.rectangle(
                (
                    *(left + inset, top + inset),
                    *(left + inset + plate.mark - 1, top + height - inset - 1),
                ),
                fill=_lifted(plate.color),
            )
        x = left + plate.pad + plate.mark + (width - plate.mark - 2 * plate.pad) / 2
        draw.text(
            (x, top + height / 2), plate.text, font=font(plate.size), anchor="mm", fill="white"
        )
    return np.asarray(canvas)


Plates = Sequence[tuple[Plate, int, int]]


class SegmentDrawer:
    """Draws maps of one set of classes."""

    def __init__(
        self,
        *,
        names: Sequence[str],
        colors: Sequence[Color] | NDArray[np.uint8],
        thing_ids: Collection[int],
        label_divisor: int,
        opacity: float = 0.55,
        labels: bool = True,
        text_scale: float = 1.0,
    ) -> None:
        """
        Args:
            names, colors: of the K classes; RGB, 0..255.
            thing_ids: classes with instances.
            label_divisor: see the module's legend.
            opacity: of the tint, 0..1.
            labels: whether segments are named.
            text_scale: of letters, for pictures that will be shown smaller.
        """
        self.names = [name.split("-merged")[0] for name in names]
        self.colors = np.asarray(colors, np.uint8).reshape(-1, 3)
        self.thing_ids = frozenset(thing_ids)
        self.label_divisor = label_divisor
        self.opacity, self.labels, self.text_scale = opacity, labels, text_scale

    def panoptic(
        self,
        image: NDArray[np.uint8],
        panoptic: NDArray[np.integer],
        scores: Mapping[int, float] | None = None,
        caption: str | None = None,
    ) -> NDArray[np.uint8]:
        """Tint every segment, outline it, and name those that have room for it.

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
        """The same of things alone; all else is without colour."""
        table = SegmentTable.of(panoptic)
        things = table.choose(self.are_things(table.ids))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        plain = np.repeat((70 + grey * np.float32(0.55)).astype(np.uint8)[..., None], 3, axis=2)
        cv2.copyTo(image, things, plain)
        return self._draw(plain, table, table.ids, scores or {}, caption, only=things)

    def are_things(self, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether each of (S,) labels is an instance of a thing."""
        return np.isin(labels // self.label_divisor, list(self.thing_ids)) & (labels >= 0)

    def legend(self, labels: NDArray[np.integer]) -> list[tuple[str, Color]]:
        """Names and colours of the classes of (S,) labels; things with their number."""
        classes = labels[labels >= 0] // self.label_divisor
        entries = []
        for category, count in zip(*np.unique(classes, return_counts=True), strict=True):
            many = f" ({count})" if category in self.thing_ids else ""
            red, green, blue = self.colors[category].tolist()
            entries.append((self.names[category] + many, (red, green, blue)))
        return entries

    def color_of(self, label: int) -> NDArray[np.uint8]:
        """Of a segment, (3,): the class's, in a shade of its own for each instance."""
        category, instance = divmod(label, self.label_divisor)
        color = self.colors[category]
        return instance_color(color, instance) if instance else color

    def _draw(
        self,
        image: NDArray[np.uint8],
        table: SegmentTable,
        labels: NDArray[np.integer],
        scores: Mapping[int, float],
        caption: str | None,
        only: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """
        Args:
            labels: (S,) panoptic labels of the segments.
            only: (H, W) mask of what is tinted; None: all.
        """
        colors = np.zeros((len(labels), 3), np.uint8)
        for row, label in enumerate(labels.tolist()):
            if label >= 0:
                colors[row] = self.color_of(label)
        tint = table.paint(colors)
        blended = cv2.addWeighted(image, 1 - self.opacity, tint, self.opacity, 0)
        tinted = np.asarray(blended, np.uint8)
        things = self.are_things(labels)
        if only is not None:
            tinted = np.asarray(cv2.copyTo(tinted, only, image), np.uint8)
        self._outline(tinted, table, things, stuff=only is None)
        named = things if only is not None else labels >= 0
        plates = self._plates(image.shape, table, labels, things, named, colors, scores, caption)
        return write_plates(tinted, plates)

    def _outline(
        self,
        picture: NDArray[np.uint8],
        table: SegmentTable,
        things: NDArray[np.bool_],
        *,
        stuff: bool,
    ) -> None:
        """Bright lines around things; faint ones between stuff, if wanted. Changes `picture`."""
        width = line_width(picture.shape)
        edges = table.edges(width)
        near = cv2.dilate(table.choose(things), np.ones((2 * width + 1,) * 2, np.uint8))
        white = np.full_like(picture, 255)
        around = cv2.bitwise_and(edges, near)
        cv2.copyTo(cv2.addWeighted(picture, 0.2, white, 0.8, 0), around, picture)
        if stuff:
            between = cv2.bitwise_and(edges, cv2.bitwise_not(near))
            cv2.copyTo(cv2.addWeighted(picture, 0.6, white, 0.4, 0), between, picture)

    def _plates(
        self,
        shape: tuple[int, ...],
        table: SegmentTable,
        labels: NDArray[np.integer],
        things: NDArray[np.bool_],
        named: NDArray[np.bool_],
        colors: NDArray[np.uint8],
        scores: Mapping[int, float],
        caption: str | None,
    ) -> list[tuple[Plate, int, int]]:
        size = round(text_size(shape) * self.text_scale)
        plates: list[tuple[Plate, int, int]] = []
        if caption:
            plate = Plate(caption, round(size * 1.2))
            if plate.extent[0] < shape[0] and plate.extent[1] < shape[1]:
                plates.append((plate, *corner(shape, plate)))
        if not self.labels:
            return plates
        wanted = []
        # Things first, then the largest: they get the better places.
        for row in np.lexsort((-table.areas, ~things)).tolist():
            label = int(labels[row])
            if not named[row]:
                continue
            text = self.names[label // self.label_divisor]
            if label in scores:
                text += f" {max(0.0, scores[label]):.2f}"  # weak centres: a little below 0
            red, green, blue = colors[row].tolist()
            plate = Plate(text, size, (red, green, blue))
            high, wide = plate.extent
            if table.areas[row] >= (0.5 if things[row] else 1.5) * high * wide:
                wanted.append((row, plate))
        taken = [((top, left), plate.extent) for plate, top, left in plates]
        places = place_labels(table.index, [(r, p.extent) for r, p in wanted], taken)
        for (_, plate), place in zip(wanted, places, strict=True):
            if place is not None:
                plates.append((plate, *place))
        return plates
