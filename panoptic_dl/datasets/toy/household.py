"""What stands on a pavement: posts, traffic lights and signs, things without a class. Meters.

Furniture, dishes and food of the toy COCO. Origin at the foot, x right, y up, 1 unit tall.
"""

from __future__ import annotations

import math
import random

from panoptic_dl.datasets.toy.canvas import Color, Pen, arc, brighten, mix, rectangle
from panoptic_dl.datasets.toy.living import ground_shadow
from panoptic_dl.datasets.toy.scene import Camera, Light, Part

STEEL: Color = (72, 84, 82)


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
    _draw_sign_plate(Pen(layer, foot, unit), (0.0, 2.55), kind)
    post = _draw_post(camera, light, x=x, z=z, height=2.4)
    return [post, Part("traffic sign", layer, z - 0.02)]


def _draw_post(camera: Camera, light: Light, *, x: float, z: float, height: float) -> Part:
    """A slim post of at least four pixels in a picture of 256 rows."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - height * unit), (foot[0] + unit, foot[1]))
    half = max(0.1, 0.0085 * camera.size[0] / unit)
    pen = Pen(layer, foot, unit)
    pen.polygon(rectangle(-half, 0, half, height), (104, 112, 116))
    pen.polygon(rectangle(-half, 0, 0, height), (150, 158, 162))
    return Part("pole", layer, z, shadow=ground_shadow(camera, light, x, z, 0.25))


def _draw_sign_plate(pen: Pen, center: tuple[float, float], kind: str) -> None:
    """The plate of a sign, about 1.1 m across, in colors that no house has."""
    x, y = center
    red, white, yellow = (222, 20, 30), (250, 250, 246), (255, 216, 0)

    def polygon(count: int, radius: float, turn: float, color: Color) -> None:
        pen.polygon(
            [
                (
                    x + radius * math.cos(2 * math.pi * (k / count + turn)),
                    y + radius * math.sin(2 * math.pi * (k / count + turn)),
                )
                for k in range(count)
            ],
            color,
        )

    if kind == "ban":
        pen.ellipse(center, (0.58, 0.58), red)
        pen.ellipse(center, (0.4, 0.4), yellow)
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
    for number, color in enumerate(((250, 44, 36), (255, 188, 30), (46, 230, 110))):
        glow = color if number == shining else brighten(color, 0.28)
        pen.ellipse((0, 3.57 - 0.46 * number), (0.19, 0.19), glow)
    post = _draw_post(camera, light, x=x, z=z, height=2.5)
    return [post, Part("traffic light", layer, z - 0.02)]


def _draw_bin(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
    """An advertising column or a litter bin: "static", which no class describes."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - 3.1 * unit), (foot[0] + unit, foot[1]))
    pen = Pen(layer, foot, unit)
    if chance.random() < 0.5:
        pen.polygon([(-0.6, 0), (-0.6, 2.5), (0.6, 2.5), (0.6, 0)], (92, 128, 124))
        for low, color in ((0.5, (232, 214, 170)), (1.4, (120, 84, 138))):
            pen.polygon([(-0.5, low), (-0.5, low + 0.75), (0.3, low + 0.75), (0.3, low)], color)
        pen.ellipse((0, 2.55), (0.72, 0.2), (54, 82, 78))
    else:
        pen.polygon([(-0.3, 0), (-0.34, 0.95), (0.34, 0.95), (0.3, 0)], (64, 72, 70))
        pen.ellipse((0, 0.97), (0.37, 0.1), (42, 48, 46))
    return Part("static", layer, z, shadow=ground_shadow(camera, light, x, z, 0.6))


def _draw_heap(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
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


def _draw_pram(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
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


DARK: Color = (30, 28, 30)

WHITE: Color = (248, 248, 244)


def _draw_chair(pen: Pen, chance: random.Random) -> None:
    """A wooden chair."""
    wood = chance.choice(((206, 70, 60), (226, 226, 220), (58, 110, 120)))
    dark = brighten(wood, 0.7)
    for x in (-0.18, 0.3):
        pen.polygon(rectangle(x, 0.08, x + 0.07, 0.45), dark)
    pen.polygon(rectangle(-0.3, 0.45, -0.21, 1.0), wood)
    pen.polygon(rectangle(0.21, 0.45, 0.3, 1.0), wood)
    for low in (0.58, 0.73, 0.88):
        pen.polygon(rectangle(-0.26, low, 0.26, low + 0.1), wood)
    pen.polygon([(-0.36, 0.38), (-0.28, 0.52), (0.34, 0.52), (0.36, 0.38)], brighten(wood, 1.12))
    pen.polygon(rectangle(-0.36, 0.33, 0.36, 0.39), dark)
    for x in (-0.35, 0.26):
        pen.polygon(rectangle(x, 0.0, x + 0.09, 0.36), wood)


def _draw_couch(pen: Pen, chance: random.Random) -> None:
    """A sofa with two cushions, about 2.2 units wide."""
    cloth = chance.choice(((62, 96, 142), (86, 128, 104), (150, 84, 96)))
    dark, pale = brighten(cloth, 0.72), brighten(cloth, 1.18)
    for x in (-0.95, 0.85):
        pen.polygon(rectangle(x, 0, x + 0.1, 0.14), (70, 50, 36))
    pen.polygon(
        [(-0.9, 0.4), (-0.86, 0.94), (-0.8, 1.0), (0.8, 1.0), (0.86, 0.94), (0.9, 0.4)], cloth
    )
    pen.polygon(rectangle(-1.0, 0.1, 1.0, 0.38), dark)
    for x in (-0.82, 0.02):
        pen.polygon(
            [
                (x, 0.36),
                (x, 0.5),
                (x + 0.04, 0.54),
                (x + 0.76, 0.54),
                (x + 0.8, 0.5),
                (x + 0.8, 0.36),
            ],
            pale,
        )
    for side in (-1, 1):
        pen.polygon(rectangle(side * 1.08, 0.1, side * 0.82, 0.6), cloth)
        pen.ellipse((side * 0.95, 0.6), (0.15, 0.12), pale)
    cushion = chance.choice(((240, 200, 90), (230, 226, 214)))
    pen.polygon([(-0.7, 0.56), (-0.74, 0.86), (-0.42, 0.9), (-0.38, 0.56)], cushion)


def _draw_plant(pen: Pen, chance: random.Random) -> None:
    """A plant in a terracotta pot."""
    leaf = chance.choice(((50, 140, 70), (70, 150, 60)))
    for number in range(9):
        angle = math.pi * (0.12 + 0.76 * number / 8)
        reach = 0.5 + 0.15 * (number % 2)
        tip = (reach * 0.8 * math.cos(angle), 0.36 + reach * math.sin(angle))
        side = (-0.09 * math.sin(angle), 0.09 * math.cos(angle))
        middle = (tip[0] * 0.55, 0.36 + (tip[1] - 0.36) * 0.6)
        pen.polygon(
            [
                (0, 0.34),
                (middle[0] + side[0], middle[1] + side[1]),
                tip,
                (middle[0] - side[0], middle[1] - side[1]),
            ],
            brighten(leaf, 0.8 + 0.08 * (number % 4)),
        )
    pen.polygon([(-0.2, 0.0), (-0.27, 0.34), (0.27, 0.34), (0.2, 0.0)], (196, 98, 58))
    pen.polygon(rectangle(-0.3, 0.3, 0.3, 0.4), (212, 114, 72))


def _draw_tv(pen: Pen, chance: random.Random) -> None:
    """A television set that is on."""
    pen.polygon(rectangle(-0.35, 0.0, 0.35, 0.06), (44, 44, 48))
    pen.polygon(rectangle(-0.08, 0.0, 0.08, 0.16), (44, 44, 48))
    pen.polygon(rectangle(-0.8, 0.12, 0.8, 1.0), (22, 22, 26))
    pen.polygon(rectangle(-0.75, 0.18, 0.75, 0.95), (60, 130, 214))
    pen.polygon(
        [(-0.75, 0.18), (-0.75, 0.4), (-0.2, 0.62), (0.3, 0.36), (0.75, 0.5), (0.75, 0.18)],
        (60, 150, 90),
    )
    pen.ellipse((0.42, 0.76), (0.09, 0.09), (255, 232, 140))


def _draw_clock(pen: Pen, chance: random.Random) -> None:
    """A round clock."""
    rim = chance.choice(((40, 40, 44), (150, 40, 40)))
    pen.ellipse((0, 0.5), (0.5, 0.5), rim)
    pen.ellipse((0, 0.5), (0.41, 0.41), (250, 248, 240))
    for hour in range(12):
        angle = hour * math.pi / 6
        pen.line(
            [
                (0.32 * math.cos(angle), 0.5 + 0.32 * math.sin(angle)),
                (0.37 * math.cos(angle), 0.5 + 0.37 * math.sin(angle)),
            ],
            0.04,
            DARK,
        )
    for length, width in ((0.2, 0.06), (0.31, 0.04)):
        angle = 2 * math.pi * chance.random()
        pen.line(
            [(0, 0.5), (length * math.cos(angle), 0.5 + length * math.sin(angle))], width, DARK
        )


def _draw_bottle(pen: Pen, chance: random.Random) -> None:
    """A wine bottle."""
    glass = chance.choice(((34, 92, 52), (28, 80, 46), (44, 104, 58)))
    pen.polygon(
        [
            (-0.15, 0.02),
            (-0.15, 0.56),
            (-0.06, 0.72),
            (-0.06, 0.98),
            (0.06, 0.98),
            (0.06, 0.72),
            (0.15, 0.56),
            (0.15, 0.02),
        ],
        glass,
    )
    pen.polygon(rectangle(-0.07, 0.86, 0.07, 1.0), (150, 30, 46))
    pen.polygon(rectangle(-0.15, 0.16, 0.15, 0.44), (240, 230, 204))
    pen.polygon(rectangle(-0.1, 0.3, 0.1, 0.36), (150, 30, 46))
    pen.polygon(rectangle(-0.11, 0.46, -0.07, 0.58), mix(glass, WHITE, 0.6))


def _draw_cup(pen: Pen, chance: random.Random) -> None:
    """A mug."""
    glaze = chance.choice(((240, 240, 246), (90, 150, 220), (226, 236, 250)))
    pen.ring((0.46, 0.5), (0.24, 0.27), 0.1, brighten(glaze, 0.85))
    pen.polygon([(-0.36, 0.06), (-0.42, 0.92), (0.42, 0.92), (0.36, 0.06)], glaze)
    pen.ellipse((0, 0.08), (0.36, 0.08), glaze)
    pen.polygon([(0.14, 0.05), (0.18, 0.9), (0.42, 0.92), (0.36, 0.06)], brighten(glaze, 0.86))
    pen.ellipse((0, 0.92), (0.42, 0.1), brighten(glaze, 0.92))
    pen.ellipse((0, 0.91), (0.36, 0.075), (92, 56, 34))


def _draw_pizza(pen: Pen, chance: random.Random) -> None:
    """A pizza lying on a table, about 2 units wide."""
    pen.ellipse((0, 0.42), (1.0, 0.42), (176, 108, 50))
    pen.ellipse((0, 0.44), (0.97, 0.4), (214, 150, 82))
    pen.ellipse((0, 0.46), (0.84, 0.33), (214, 72, 38))
    pen.ellipse((0, 0.46), (0.8, 0.31), (246, 202, 92))
    for number in range(9):
        angle = 2 * math.pi * (number / 9 + 0.03 * chance.random())
        reach = 0.55 if number % 3 else 0.2
        place = (reach * math.cos(angle), 0.46 + 0.4 * reach * math.sin(angle))
        pen.ellipse(place, (0.13, 0.055), (186, 40, 34))
        pen.ellipse((place[0] - 0.02, place[1] + 0.012), (0.09, 0.035), (208, 66, 50))
    for _ in range(8):
        angle = 2 * math.pi * chance.random()
        pen.ellipse(
            (0.6 * math.cos(angle), 0.46 + 0.22 * math.sin(angle)), (0.05, 0.022), (70, 130, 50)
        )


def _draw_apple(pen: Pen, chance: random.Random) -> None:
    """An apple."""
    skin = chance.choice(((204, 28, 36), (188, 22, 40), (214, 48, 36)))
    pen.line([(0, 0.75), (0.06, 1.0)], 0.07, (90, 60, 34))
    for side in (-1, 1):
        pen.ellipse((side * 0.16, 0.42), (0.34, 0.42), skin)
    pen.polygon([(0.04, 0.86), (0.26, 1.0), (0.36, 0.84), (0.16, 0.8)], (80, 150, 50))
    pen.ellipse((-0.2, 0.56), (0.1, 0.14), mix(skin, WHITE, 0.55), solid=False)


def _draw_orange(pen: Pen, chance: random.Random) -> None:
    """An orange."""
    skin = chance.choice(((250, 142, 20), (246, 130, 14)))
    pen.ellipse((0, 0.5), (0.5, 0.5), brighten(skin, 0.88))
    pen.ellipse((-0.04, 0.54), (0.44, 0.44), skin)
    pen.ellipse((-0.16, 0.7), (0.13, 0.1), mix(skin, WHITE, 0.5))
    pen.ellipse((0.05, 0.95), (0.05, 0.03), (90, 120, 40), solid=False)


def _draw_banana(pen: Pen, chance: random.Random) -> None:
    """A banana, about 1.7 units wide."""
    skin = chance.choice(((250, 220, 60), (244, 210, 44)))
    outer = arc((0, 1.0), (0.85, 0.95), 0.53, 0.97, 14)
    inner = arc((0, 1.15), (0.72, 0.72), 0.97, 0.53, 14)
    pen.polygon([*outer, *inner], skin)
    middle = arc((0, 1.07), (0.79, 0.83), 0.97, 0.53, 14)
    pen.polygon([*outer, *middle], brighten(skin, 0.84), solid=False)
    pen.polygon([(0.78, 0.82), (0.84, 1.0), (0.92, 0.98), (0.86, 0.8)], (110, 84, 30))
    pen.ellipse((-0.8, 0.9), (0.06, 0.06), (90, 70, 30))


WITHOUT_CLASS = (_draw_bin, _draw_pram, _draw_heap)
OF_ROOMS = {
    "bottle": _draw_bottle,
    "cup": _draw_cup,
    "banana": _draw_banana,
    "apple": _draw_apple,
    "orange": _draw_orange,
    "pizza": _draw_pizza,
    "chair": _draw_chair,
    "couch": _draw_couch,
    "potted plant": _draw_plant,
    "tv": _draw_tv,
    "clock": _draw_clock,
}
