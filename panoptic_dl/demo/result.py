"""What a prediction holds, for people and programs.

H W pixels of the image, K classes.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from panoptic_dl.classes import Classes

if TYPE_CHECKING:
    from collections.abc import Sequence

VOID = -1


@dataclass(frozen=True)
class Segment:
    """A thing, or all of a kind of stuff, in one image.

    Attributes:
        id: its value in the panoptic map.
        category: contiguous id of its class, 0..K-1.
        name: of its class.
        is_thing: whether it is one of several of its kind, or stuff.
        area: in pixels.
        box: (x0, y0, x1, y1) in pixels, right and bottom exclusive.
        score: of a thing: how sure the model is, about 0..1 (see `instances_from_panoptic`); None
            for stuff.
    """

    id: int
    category: int
    name: str
    is_thing: bool
    area: int
    box: tuple[int, int, int, int]
    score: float | None


@dataclass(frozen=True)
class PanopticResult:
    """The prediction for one image, at the size of the image.

    Attributes:
        image: (H, W, 3) RGB uint8, upright, as the network was shown it before any resizing.
        semantic: (H, W) uint8 (uint16 for more than 256 classes), the class of each pixel.
        panoptic: (H, W) int32 of category * label_divisor + instance, -1 where void; None of a
            model of the semantic task.
        segments: of the panoptic map, by id; none of the semantic task.
        classes: names and colours.
        label_divisor: see `panoptic`.
        center: (H, W) float32 heatmap of centres, where branches were asked for.
        offset: (2, H, W) float32 (y, x) in pixels to the centre, where branches were asked for.
        notes: what was done to the picture before the network saw it.
    """

    image: NDArray[np.uint8]
    semantic: NDArray[np.unsignedinteger]
    panoptic: NDArray[np.int32] | None
    segments: list[Segment]
    classes: Classes
    label_divisor: int = 1000
    center: NDArray[np.float32] | None = None
    offset: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def instances(self) -> list[Segment]:
        """The things, best scores first."""
        things = [segment for segment in self.segments if segment.is_thing]
        return sorted(things, key=lambda segment: -(segment.score or 0))

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """(H, W): where a segment is."""
        assert self.panoptic is not None
        return self.panoptic == segment.id

    def draw(
        self,
        views: "Sequence[str] | str | None" = None,
        *,
        layout: str = "overlay",
        legend: bool = True,
        labels: bool = True,
        opacity: float = 0.55,
    ) -> NDArray[np.uint8]:
        """A picture of it, RGB uint8.

        Args:
            views: "panoptic", "semantic", "instances", "center", "offset": one with
                `layout="overlay"`, any with "side_by_side", where the image stands beside them.
                None: panoptic, or semantic where that is all there is.
            layout: "overlay" or "side_by_side".
            legend: name the classes below.
            labels: name segments, with scores.
            opacity: of colours over the image, 0..1.

        Pictures of fewer than 256 pixels a side are enlarged by a whole number, for labels to fit.

        Raises:
            ValueError: a view that is unknown, or that the result has not got.
        """
        from .drawing import Style, draw_overlay, draw_side_by_side  # which knows results

        style = Style(legend=legend, labels=labels, opacity=opacity)
        if views is None:
            views = "semantic" if self.panoptic is None else "panoptic"
        chosen = [views] if isinstance(views, str) else list(views)
        if layout == "side_by_side":
            return draw_side_by_side(self, chosen, style)
        if layout != "overlay" or len(chosen) != 1:
            raise ValueError(
                f"layout={layout} with views={chosen}: overlay takes one view, side_by_side any"
            )
        return draw_overlay(self, chosen[0], style)
