"""Draw a prediction over its image: panoptic, semantic, or its instances alone.

One pass over the pixels each for colours, blending and outlines: the number of segments hardly
matters. H W pixels, K classes. A panoptic map holds category * label_divisor + instance per pixel;
-1 is void.
"""

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .labels import place_labels
from .palette import instance_color
from .segments import SegmentTable
from .sheet import Color
from .writing import Plate, corner, line_width, text_size, write_plates

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
