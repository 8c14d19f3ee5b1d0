"""Cars that drive along the street, and cars from their side. Metres."""

from __future__ import annotations

import random

from panoptic_dl.data.toy.boxes import GLASS, GLASS_LIGHT, RUBBER, Box, along, stand
from panoptic_dl.data.toy.canvas import Colour, Pen, brighten, mix, rectangle
from panoptic_dl.data.toy.scene import Camera, Light, Part

CAR_PAINTS: tuple[Colour, ...] = (
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
    layer = along(camera, x, z, 1.9, tall, length)
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
    body = Box(camera, layer, body_profile, x=x, z=z, length=length)
    near, deep = (0.26, 0.62) if coming else (0.06, 0.6)
    cabin = Box(camera, layer, cabin_profile, x=x, z=z + near * length, length=deep * length)

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
    return stand(camera, light, "car", layer, x, z, 1.9)


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
    part = stand(camera, light, "car", layer, x, z, 4.4)
    return part


def draw_car_profile(pen: Pen, paint: Colour) -> None:
    """A saloon from its side, nose to the right; units are metres."""
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
