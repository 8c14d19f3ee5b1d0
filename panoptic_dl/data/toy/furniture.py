"""What stands on a pavement: posts, traffic lights and signs, things without a class. Metres."""

from __future__ import annotations

import math
import random

from panoptic_dl.data.toy.canvas import Colour, Pen, brighten, rectangle
from panoptic_dl.data.toy.people import ground_shadow
from panoptic_dl.data.toy.scene import Camera, Light, Part

STEEL: Colour = (72, 84, 82)


def draw_pole(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, side: int
) -> Part:
    """A lamp post with an arm over the street; chunky, so that few pixels still show it."""
    height = chance.uniform(4.6, 5.6)
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    width = max(0.24, 0.019 * camera.size[0] / unit)
    layer = camera.layer(
        (foot[0] - 2.2 * unit, foot[1] - (height + 0.5) * unit), (foot[0] + 2.2 * unit, foot[1])
    )
    pen = Pen(layer, foot, unit, flip=side > 0)
    half = width / 2
    pen.polygon([(-half, 0), (-half, height), (half, height), (half, 0)], STEEL)
    lit = 1 if (light.sun_side > 0) != (side > 0) else -1
    edges = sorted((lit * half, lit * 0.2 * half))
    pen.polygon(
        [(edges[0], 0), (edges[0], height), (edges[1], height), (edges[1], 0)], brighten(STEEL, 1.6)
    )
    pen.polygon(
        [(-1.5 * half, 0), (-1.5 * half, 0.7), (1.5 * half, 0.7), (1.5 * half, 0)],
        brighten(STEEL, 0.75),
    )
    pen.line([(0, height - 0.05), (1.5, height + 0.15)], width * 0.75, STEEL)
    pen.polygon(
        [(1.1, height + 0.25), (1.2, height), (2.0, height + 0.05), (1.95, height + 0.3)],
        brighten(STEEL, 0.8),
    )
    pen.polygon(
        [(1.25, height), (1.95, height + 0.05), (1.9, height - 0.05), (1.3, height - 0.08)],
        (250, 240, 206),
    )
    return Part("pole", layer, z, shadow=ground_shadow(camera, light, x, z, 0.4))


def draw_sign(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float
) -> list[Part]:
    """A traffic sign on its post."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer(
        (foot[0] - unit, foot[1] - 3.7 * unit), (foot[0] + unit, foot[1] - 1.5 * unit)
    )
    kind = chance.choice(("ban", "warning", "priority", "crossing"))
    draw_sign_plate(Pen(layer, foot, unit), (0.0, 2.55), kind)
    post = draw_post(camera, light, x=x, z=z, height=2.4)
    return [post, Part("traffic sign", layer, z - 0.02)]


def draw_post(camera: Camera, light: Light, *, x: float, z: float, height: float) -> Part:
    """A slim post of at least four pixels in a picture of 256 rows."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - height * unit), (foot[0] + unit, foot[1]))
    half = max(0.1, 0.0085 * camera.size[0] / unit)
    pen = Pen(layer, foot, unit)
    pen.polygon(rectangle(-half, 0, half, height), (104, 112, 116))
    pen.polygon(rectangle(-half, 0, 0, height), (150, 158, 162))
    return Part("pole", layer, z, shadow=ground_shadow(camera, light, x, z, 0.25))


def draw_sign_plate(pen: Pen, centre: tuple[float, float], kind: str) -> None:
    """The plate of a sign, about 1.1 m across, in colours that no house has."""
    x, y = centre
    red, white, yellow = (222, 20, 30), (250, 250, 246), (255, 216, 0)

    def polygon(count: int, radius: float, turn: float, colour: Colour) -> None:
        pen.polygon(
            [
                (
                    x + radius * math.cos(2 * math.pi * (k / count + turn)),
                    y + radius * math.sin(2 * math.pi * (k / count + turn)),
                )
                for k in range(count)
            ],
            colour,
        )

    if kind == "ban":
        pen.ellipse(centre, (0.58, 0.58), red)
        pen.ellipse(centre, (0.4, 0.4), yellow)
    elif kind == "warning":
        polygon(3, 0.76, 0.25, red)
        polygon(3, 0.48, 0.25, yellow)
        pen.line([(x, y - 0.05), (x, y + 0.22)], 0.09, (20, 20, 20))
        pen.ellipse((x, y - 0.15), (0.05, 0.05), (20, 20, 20))
    elif kind == "priority":
        polygon(4, 0.72, 0.25, white)
        polygon(4, 0.6, 0.25, yellow)
    else:
        pen.polygon(
            [
                (x - 0.55, y - 0.55),
                (x - 0.55, y + 0.55),
                (x + 0.55, y + 0.55),
                (x + 0.55, y - 0.55),
            ],
            red,
        )
        polygon(3, 0.55, 0.25, white)


def draw_traffic_light(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float
) -> list[Part]:
    """A traffic light on its post."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer(
        (foot[0] - unit, foot[1] - 4.2 * unit), (foot[0] + unit, foot[1] - 2.2 * unit)
    )
    pen = Pen(layer, foot, unit)
    pen.polygon(rectangle(-0.32, 2.4, 0.32, 3.8), (30, 32, 34))
    shining = chance.randrange(3)
    for number, colour in enumerate(((250, 44, 36), (255, 188, 30), (46, 230, 110))):
        glow = colour if number == shining else brighten(colour, 0.28)
        pen.ellipse((0, 3.57 - 0.46 * number), (0.19, 0.19), glow)
    post = draw_post(camera, light, x=x, z=z, height=2.5)
    return [post, Part("traffic light", layer, z - 0.02)]


def draw_bin(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
    """An advertising column or a litter bin: "static", which no class describes."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - 3.1 * unit), (foot[0] + unit, foot[1]))
    pen = Pen(layer, foot, unit)
    if chance.random() < 0.5:
        pen.polygon([(-0.6, 0), (-0.6, 2.5), (0.6, 2.5), (0.6, 0)], (92, 128, 124))
        for low, colour in ((0.5, (232, 214, 170)), (1.4, (120, 84, 138))):
            pen.polygon([(-0.5, low), (-0.5, low + 0.75), (0.3, low + 0.75), (0.3, low)], colour)
        pen.ellipse((0, 2.55), (0.72, 0.2), (54, 82, 78))
    else:
        pen.polygon([(-0.3, 0), (-0.34, 0.95), (0.34, 0.95), (0.3, 0)], (64, 72, 70))
        pen.ellipse((0, 0.97), (0.37, 0.1), (42, 48, 46))
    return Part("static", layer, z, shadow=ground_shadow(camera, light, x, z, 0.6))


def draw_heap(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
    """Something under a tarpaulin, "unlabeled": nobody can tell what it is."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer(
        (foot[0] - 1.2 * unit, foot[1] - 1.3 * unit), (foot[0] + 1.2 * unit, foot[1])
    )
    pen = Pen(layer, foot, unit, flip=chance.random() < 0.5)
    cloth = chance.choice(((86, 104, 120), (118, 104, 84)))
    peak = chance.uniform(0.8, 1.1)
    pen.polygon(
        [(-0.9, 0), (-0.75, 0.55), (-0.3, peak), (0.1, 0.85 * peak), (0.45, peak * 0.95), (0.9, 0)],
        cloth,
    )
    pen.polygon([(-0.3, peak), (-0.45, 0), (-0.1, 0), (0.1, 0.85 * peak)], brighten(cloth, 1.2))
    pen.polygon([(0.45, peak * 0.95), (0.4, 0), (0.9, 0)], brighten(cloth, 0.75))
    return Part("unlabeled", layer, z, shadow=ground_shadow(camera, light, x, z, 0.9))


def draw_pram(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
    """A pram: "dynamic", something that moves and has no class."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - 1.3 * unit), (foot[0] + unit, foot[1]))
    pen = Pen(layer, foot, unit, flip=chance.random() < 0.5)
    cloth = (58, 66, 96)
    pen.line([(-0.3, 0.15), (0.3, 0.6)], 0.06, (90, 92, 96))
    pen.line([(0.3, 0.15), (-0.3, 0.6)], 0.06, (90, 92, 96))
    pen.polygon([(-0.45, 0.55), (-0.5, 0.85), (0.4, 0.8), (0.35, 0.5)], cloth)
    pen.ellipse((-0.22, 0.82), (0.3, 0.28), brighten(cloth, 1.3))
    pen.line([(0.38, 0.75), (0.7, 1.05)], 0.06, (50, 50, 54))
    for hub in (-0.3, 0.3):
        pen.ellipse((hub, 0.14), (0.15, 0.14), (26, 26, 28))
    return Part("dynamic", layer, z, shadow=ground_shadow(camera, light, x, z, 0.5))
