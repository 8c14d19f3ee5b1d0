"""Cars that drive along the street, and cars from their side. Meters.

Buses, lorries and trams that drive along the street. Meters.

Boxes in perspective, of which the vehicles that drive along the street are made. Meters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from panoptic_dl.datasets.toy.canvas import Color, Layer, Pen, Point, brighten, mix, rectangle
from panoptic_dl.datasets.toy.scene import Camera, Light, Part, Shadow

RUBBER: Color = (22, 22, 24)

GLASS: Color = (34, 44, 58)

GLASS_LIGHT: Color = (108, 134, 158)


class _Box:
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

    def shell(self, paint: Color, light: Light) -> None:
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

    def patch(self, corners: Sequence[Point], color: Color, *, alpha: int = 255) -> None:
        """Paints a polygon on the near face."""
        self.layer.polygon([self.face(px, py) for px, py in corners], color, alpha=alpha)

    def flank_patch(
        self,
        low: tuple[float, float],
        high: tuple[float, float],
        shares: tuple[float, float],
        color: Color,
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
            color,
        )

    def wheel(self, half_width: float, radius: float, share: float) -> None:
        """Paints a wheel on the visible flank, an ellipse in perspective."""
        for r, color in ((radius, RUBBER), (radius * 0.55, (120, 124, 130))):
            reach = r / self.length
            rim = [(math.cos(a * math.pi / 8), math.sin(a * math.pi / 8)) for a in range(16)]
            self.layer.polygon(
                [
                    self.face(self.flank * half_width, radius + r * s, share + reach * c)
                    for c, s in rim
                ],
                color,
            )

    def tyres(self, half_width: float, radius: float) -> None:
        """Paints the two tyres that are seen under the near face."""
        for side in (-1, 1):
            outer, inner = side * half_width, side * (half_width - 0.26)
            self.patch([(outer, 0.0), (outer, radius), (inner, radius), (inner, 0.0)], RUBBER)


def _along(camera: Camera, x: float, z: float, width: float, height: float, length: float) -> Layer:
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


def _stand(
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


CAR_PAINTS: tuple[Color, ...] = (
    (190, 34, 40),
    (30, 78, 164),
    (206, 210, 214),
    (38, 40, 48),
    (24, 118, 126),
    (126, 132, 142),
    (226, 226, 222),
    (110, 24, 60),
)


def draw_car(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A car that drives along the street; `coming` shows its front, else its tail."""
    paint = chance.choice(CAR_PAINTS)
    length = chance.uniform(3.9, 4.5)
    tall = chance.uniform(1.42, 1.66)
    layer = _along(camera, x, z, 1.9, tall, length)
    waist = 0.92
    body_profile = [
        (-0.86, 0.22),
        (-0.93, 0.5),
        (-0.9, waist - 0.06),
        (-0.8, waist),
        (0.8, waist),
        (0.9, waist - 0.06),
        (0.93, 0.5),
        (0.86, 0.22),
    ]
    cabin_profile = [
        (-0.84, waist - 0.05),
        (-0.64, tall - 0.08),
        (-0.56, tall),
        (0.56, tall),
        (0.64, tall - 0.08),
        (0.84, waist - 0.05),
    ]
    body = _Box(camera, layer, body_profile, x=x, z=z, length=length)
    near, deep = (0.26, 0.62) if coming else (0.06, 0.6)
    cabin = _Box(camera, layer, cabin_profile, x=x, z=z + near * length, length=deep * length)

    body.tyres(0.84, 0.36)
    body.shell(paint, light)
    for share in (0.18, 0.8):
        body.wheel(0.94, 0.33, share)
    cabin.shell(brighten(paint, 0.96), light)
    for shares in ((0.1, 0.47), (0.53, 0.92)):
        cabin.flank_patch((0.83, waist + 0.03), (0.68, tall - 0.13), shares, GLASS)
    screen = [(-0.74, waist + 0.02), (-0.58, tall - 0.1), (0.58, tall - 0.1), (0.74, waist + 0.02)]
    cabin.patch(screen, GLASS if coming else brighten(GLASS, 0.85))
    cabin.patch(
        [(-0.7, waist + 0.05), (-0.58, tall - 0.13), (0.0, tall - 0.13), (-0.3, waist + 0.05)],
        GLASS_LIGHT,
        alpha=120,
    )
    # The near face again, over the lower edge of the cabin.
    body.patch(body_profile, paint)
    body.patch(rectangle(-0.88, 0.24, 0.88, 0.4), brighten(paint, 0.55))
    body.patch(
        [(-0.9, waist - 0.08), (-0.8, waist), (0.8, waist), (0.9, waist - 0.08)],
        mix(paint, (255, 255, 255), 0.25),
    )
    if coming:
        body.patch(rectangle(-0.42, 0.44, 0.42, 0.68), (24, 26, 30))
        for side in (-1, 1):
            body.patch(rectangle(side * 0.86, 0.56, side * 0.52, 0.76), (255, 250, 222))
    else:
        body.patch(rectangle(-0.26, 0.48, 0.26, 0.62), (236, 236, 220))
        for side in (-1, 1):
            body.patch(rectangle(side * 0.89, 0.56, side * 0.56, 0.8), (226, 22, 26))
            body.patch(rectangle(side * 0.86, 0.68, side * 0.7, 0.78), (255, 128, 96))
    return _stand(camera, light, "car", layer, x, z, 1.9)


def draw_crossing_car(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float
) -> Part:
    """A car seen from its side, for one that crosses the street."""
    paint = chance.choice(CAR_PAINTS)
    left, top = camera.project(x - 2.4, 1.7, z)
    right, bottom = camera.project(x + 2.4, 0.0, z)
    layer = camera.layer((left, top), (right, bottom))
    pen = Pen(layer, camera.project(x, 0, z), camera.pixels(1.0, z), flip=chance.random() < 0.5)
    draw_car_profile(pen, paint)
    part = _stand(camera, light, "car", layer, x, z, 4.4)
    return part


def draw_car_profile(pen: Pen, paint: Color) -> None:
    """A saloon from its side, nose to the right; units are meters."""
    pen.polygon(
        [
            (-2.15, 0.3),
            (-2.2, 0.72),
            (-2.05, 0.96),
            (-1.5, 1.0),
            (-0.95, 1.42),
            (-0.7, 1.48),
            (0.3, 1.48),
            (0.55, 1.42),
            (1.15, 0.98),
            (1.9, 0.86),
            (2.16, 0.7),
            (2.2, 0.42),
            (2.1, 0.26),
            (-2.0, 0.26),
        ],
        paint,
    )
    pen.polygon([(-1.3, 1.0), (-0.88, 1.36), (-0.2, 1.38), (-0.2, 1.0)], GLASS)
    pen.polygon([(-0.1, 1.0), (-0.1, 1.38), (0.28, 1.38), (0.5, 1.34), (0.95, 1.0)], GLASS)
    pen.polygon(
        [(0.1, 1.0), (0.24, 1.38), (0.36, 1.38), (0.3, 1.0)], GLASS_LIGHT, alpha=120, solid=False
    )
    pen.polygon(
        [(-2.05, 0.9), (-1.95, 0.95), (1.6, 0.9), (2.0, 0.82)], mix(paint, (255, 255, 255), 0.3)
    )
    pen.polygon([(-2.15, 0.3), (-2.15, 0.44), (2.18, 0.44), (2.1, 0.26)], brighten(paint, 0.6))
    pen.line([(-0.15, 0.98), (-0.15, 0.46)], 0.03, brighten(paint, 0.6), solid=False)
    pen.polygon([(2.0, 0.62), (1.86, 0.76), (2.1, 0.74), (2.17, 0.62)], (255, 250, 224))
    pen.polygon([(-2.19, 0.66), (-2.14, 0.86), (-1.95, 0.86), (-1.98, 0.66)], (220, 24, 24))
    for place in (-1.32, 1.34):
        pen.ellipse((place, 0.34), (0.37, 0.36), RUBBER)
        pen.ellipse((place, 0.34), (0.2, 0.2), (150, 154, 160))


BUS_PAINTS: tuple[Color, ...] = ((242, 182, 22), (236, 168, 14), (246, 196, 40))

TRUCK_PAINTS: tuple[Color, ...] = ((232, 108, 34), (222, 96, 26), (240, 122, 48))

TRAIN_PAINTS: tuple[Color, ...] = ((196, 24, 58), (182, 20, 50))


def _draw_bus(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A city bus: one long yellow box with a dark band of windows."""
    paint = chance.choice(BUS_PAINTS)
    length, half, tall = 9.5, 1.25, 3.05
    layer = _along(camera, x, z, 2 * half, tall, length)
    profile = [
        (-half, 0.35),
        (-half, tall - 0.15),
        (-half + 0.2, tall),
        (half - 0.2, tall),
        (half, tall - 0.15),
        (half, 0.35),
    ]
    box = _Box(camera, layer, profile, x=x, z=z, length=length)
    box.tyres(half - 0.1, 0.5)
    box.shell(paint, light)
    for number in range(6):
        begin = 0.03 + number * 0.16
        box.flank_patch((half, 1.35), (half, 2.55), (begin, begin + 0.145), GLASS)
    box.flank_patch((half, 0.75), (half, 0.95), (0.0, 1.0), (246, 244, 236))
    for share in (0.16, 0.76):
        box.wheel(half + 0.01, 0.46, share)
    box.patch(rectangle(-half + 0.12, 1.3, half - 0.12, 2.45), GLASS)
    box.patch([(-0.95, 1.4), (-0.6, 2.4), (0.0, 2.4), (-0.35, 1.4)], GLASS_LIGHT, alpha=110)
    box.patch(rectangle(-half, 0.35, half, 0.6), (60, 54, 44))
    if coming:
        box.patch(rectangle(-0.8, 2.55, 0.8, 2.85), (18, 18, 20))
        box.patch(rectangle(-0.62, 2.62, 0.62, 2.78), (255, 150, 32))
        lamp: Color = (255, 250, 224)
    else:
        box.patch(rectangle(-0.5, 0.72, 0.5, 1.02), (246, 244, 236))
        lamp = (222, 24, 24)
    for side in (-1, 1):
        box.patch(rectangle(side * (half - 0.1), 0.68, side * (half - 0.48), 0.95), lamp)
    return _stand(camera, light, "bus", layer, x, z, 2 * half)


def _draw_truck(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A lorry: a white ribbed cargo box, an orange cab."""
    paint = chance.choice(TRUCK_PAINTS)
    cargo_paint = chance.choice(((234, 236, 238), (222, 226, 230)))
    length, half, tall = 7.0, 1.25, 3.5
    layer = _along(camera, x, z, 2 * half, tall, length)
    share = 0.26 if coming else 0.0
    cargo = _Box(
        camera,
        layer,
        rectangle(-half, 0.85, half, tall),
        x=x,
        z=z + share * length,
        length=length * 0.74,
    )
    cab_near = 0.0 if coming else 0.78
    cab = _Box(
        camera,
        layer,
        [(-1.15, 0.4), (-1.15, 2.3), (-0.95, 2.65), (0.95, 2.65), (1.15, 2.3), (1.15, 0.4)],
        x=x,
        z=z + cab_near * length,
        length=length * 0.22,
    )
    frame = _Box(camera, layer, rectangle(-1.1, 0.42, 1.1, 0.9), x=x, z=z, length=length * 0.97)

    def paint_cab() -> None:
        cab.shell(paint, light)
        cab.flank_patch((1.15, 1.5), (1.13, 2.25), (0.25, 0.85), GLASS)
        cab.patch(rectangle(-1.02, 1.45, 1.02, 2.35), GLASS)
        cab.patch([(-0.8, 1.5), (-0.5, 2.3), (0.0, 2.3), (-0.3, 1.5)], GLASS_LIGHT, alpha=110)
        cab.patch(rectangle(-0.7, 0.75, 0.7, 1.2), brighten(paint, 0.45))
        for side in (-1, 1):
            cab.patch(rectangle(side * 1.08, 0.6, side * 0.78, 0.85), (255, 250, 224))

    if not coming:
        paint_cab()
    frame.tyres(1.12, 0.5)
    frame.shell((46, 48, 54), light)
    for wheel_share in (0.14, 0.32, 0.84):
        frame.wheel(1.12, 0.46, wheel_share)
    cargo.shell(cargo_paint, light)
    for number in range(1, 12):
        place = number / 12
        cargo.flank_patch(
            (half, 0.95), (half, tall - 0.1), (place, place + 0.012), brighten(cargo_paint, 0.62)
        )
    cargo.flank_patch((half, 1.5), (half, 2.1), (0.0, 1.0), paint)
    if coming:
        paint_cab()
    else:
        for place in (-0.02, -1.12, 1.08):
            cargo.patch(rectangle(place, 0.95, place + 0.05, tall - 0.1), (130, 134, 140))
        cargo.patch(rectangle(-half, 1.5, half, 2.1), paint)
        for side in (-1, 1):
            frame.patch(rectangle(side * 1.08, 0.55, side * 0.75, 0.8), (222, 24, 24))
    return _stand(camera, light, "truck", layer, x, z, 2 * half)


def _draw_train(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A tram: long, crimson below and cream above, rounded front."""
    paint = chance.choice(TRAIN_PAINTS)
    length, half, tall = 18.0, 1.2, 3.3
    layer = _along(camera, x, z, 2 * half, tall, length)
    profile = [
        (-half, 0.2),
        (-half, 2.7),
        (-0.8, 3.2),
        (-0.4, tall),
        (0.4, tall),
        (0.8, 3.2),
        (half, 2.7),
        (half, 0.2),
    ]
    cream = (238, 228, 202)
    box = _Box(camera, layer, profile, x=x, z=z, length=length)
    box.shell(cream, light)
    lit = 1.0 if box.flank == light.sun_side else 0.72
    box.flank_patch((half, 0.2), (half, 1.3), (0, 1), brighten(paint, lit))
    for number in range(9):
        begin = 0.02 + number * 0.108
        box.flank_patch((half, 1.4), (half, 2.4), (begin, begin + 0.09), GLASS)
    box.patch(rectangle(-half, 0.2, half, 1.3), paint)
    box.patch([(-1.0, 1.4), (-0.86, 2.6), (0.86, 2.6), (1.0, 1.4)], GLASS)
    box.patch(rectangle(-0.5, 2.75, 0.5, 3.0), (255, 170, 40) if coming else (30, 30, 34))
    for side in (-1, 1):
        lamp = (255, 250, 224) if coming else (255, 90, 70)
        box.patch(rectangle(side * 0.95, 0.7, side * 0.6, 1.0), lamp)
    return _stand(camera, light, "train", layer, x, z, 2 * half)


LARGE_VEHICLES = {"bus": _draw_bus, "truck": _draw_truck, "train": _draw_train}
