"""Boxes in perspective, of which the vehicles that drive along the street are made. Metres."""

from __future__ import annotations

import math
from collections.abc import Sequence

from panoptic_dl.data.toy.canvas import Colour, Layer, Point, brighten
from panoptic_dl.data.toy.scene import Camera, Light, Part, Shadow

RUBBER: Colour = (22, 22, 24)

GLASS: Colour = (34, 44, 58)

GLASS_LIGHT: Colour = (108, 134, 158)


class Box:
    """A prism along the street: a profile at depth z, the same at z + length."""

    def __init__(
        self,
        camera: Camera,
        layer: Layer,
        profile: Sequence[Point],
        *,
        x: float,
        z: float,
        length: float,
    ) -> None:
        self.camera = camera
        self.layer = layer
        self.profile = profile
        self.x = x
        self.z = z
        self.length = length
        # The flank that can be seen is the one that looks to the camera's axis.
        self.flank = -1.0 if x > camera.offset else 1.0

    def face(self, px: float, py: float, share: float = 0.0) -> Point:
        """A point of the cross-section, `share` (0..1) of the length behind the near face."""
        return self.camera.project(self.x + px, py, self.z + share * self.length)

    def shell(self, paint: Colour, light: Light) -> None:
        """Paints flanks and roof, then the near face."""
        lit = 1.06 if self.flank == light.sun_side else 0.74
        count = len(self.profile)
        for index in range(count):
            (ax, ay), (bx, by) = self.profile[index], self.profile[(index + 1) % count]
            steep = abs(by - ay) > abs(bx - ax)
            self.layer.polygon(
                [self.face(ax, ay), self.face(bx, by), self.face(bx, by, 1), self.face(ax, ay, 1)],
                brighten(paint, lit if steep else 1.16),
            )
        self.layer.polygon([self.face(px, py) for px, py in self.profile], paint)

    def patch(self, corners: Sequence[Point], colour: Colour, *, alpha: int = 255) -> None:
        """Paints a polygon on the near face."""
        self.layer.polygon([self.face(px, py) for px, py in corners], colour, alpha=alpha)

    def flank_patch(
        self,
        low: tuple[float, float],
        high: tuple[float, float],
        shares: tuple[float, float],
        colour: Colour,
    ) -> None:
        """Paints a window on the visible flank.

        Args:
            low, high: (half width, height) at its lower and upper edge.
            shares: where along the length it begins and ends, 0..1.
        """
        (lx, ly), (hx, hy) = low, high
        self.layer.polygon(
            [
                self.face(self.flank * lx, ly, shares[0]),
                self.face(self.flank * hx, hy, shares[0]),
                self.face(self.flank * hx, hy, shares[1]),
                self.face(self.flank * lx, ly, shares[1]),
            ],
            colour,
        )

    def wheel(self, half_width: float, radius: float, share: float) -> None:
        """Paints a wheel on the visible flank, an ellipse in perspective."""
        for r, colour in ((radius, RUBBER), (radius * 0.55, (120, 124, 130))):
            reach = r / self.length
            rim = [(math.cos(a * math.pi / 8), math.sin(a * math.pi / 8)) for a in range(16)]
            self.layer.polygon(
                [
                    self.face(self.flank * half_width, radius + r * s, share + reach * c)
                    for c, s in rim
                ],
                colour,
            )

    def tyres(self, half_width: float, radius: float) -> None:
        """Paints the two tyres that are seen under the near face."""
        for side in (-1, 1):
            outer, inner = side * half_width, side * (half_width - 0.26)
            self.patch(
                [(outer, 0.0), (outer, radius), (inner, radius), (inner, 0.0)],
                RUBBER,
            )


def along(camera: Camera, x: float, z: float, width: float, height: float, length: float) -> Layer:
    """An empty layer that holds a box vehicle."""
    half = width / 2 + 0.15
    return camera.layer(
        *[
            camera.project(x + px, py, depth)
            for px in (-half, half)
            for py in (-0.1, height + 0.1)
            for depth in (z, z + length)
        ]
    )


def stand(
    camera: Camera, light: Light, label: str, layer: Layer, x: float, z: float, width: float
) -> Part:
    """Finishes a box vehicle: haze, and its shadow on the road."""
    foot = camera.project(x - 0.15 * light.sun_side, 0, z + 0.3)
    shadow = Shadow(
        (foot[0], foot[1]),
        (camera.pixels(width * 0.6, z), camera.pixels(0.28, z)),
        120 + 220 * light.shadow,
        camera.pixels(0.13, z),
    )
    return Part(label, layer, z, is_thing=True, shadow=shadow)
