"""Things of beach and street in the toy COCO. Origin at the foot, x right, y up, 1 unit tall.

The things of the toy COCO by the names of their categories.

Houses, fences and walls that stand along a street, in perspective. Meters.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from panoptic_dl.datasets.toy.canvas import Color, Layer, Pen, Point, arc, brighten, mix, rectangle
from panoptic_dl.datasets.toy.household import OF_ROOMS
from panoptic_dl.datasets.toy.living import ANIMALS, draw_bicycle, draw_walker
from panoptic_dl.datasets.toy.scene import Camera, Light, Part, haze_of_wall
from panoptic_dl.datasets.toy.vehicles import CAR_PAINTS, draw_car_profile

WHITE: Color = (248, 248, 244)


def _draw_boat(pen: Pen, chance: random.Random) -> None:
    """A sailing boat."""
    hull = chance.choice(((178, 40, 44), (40, 62, 120), (120, 70, 40)))
    sail = chance.choice(((250, 248, 238), (250, 236, 206)))
    pen.line([(0.0, 0.15), (0.0, 1.0)], 0.045, (110, 80, 50))
    pen.polygon([(0.03, 0.98), (0.03, 0.26), (0.42, 0.26)], sail)
    pen.polygon([(-0.02, 0.9), (-0.02, 0.26), (-0.36, 0.28)], brighten(sail, 0.86))
    pen.polygon([(-0.02, 0.3), (0.03, 0.3), (0.03, 0.2), (-0.02, 0.2)], sail)
    pen.polygon([(-0.55, 0.22), (-0.4, 0.0), (0.38, 0.0), (0.62, 0.24)], hull)
    pen.polygon([(-0.55, 0.22), (-0.52, 0.17), (0.57, 0.19), (0.62, 0.24)], mix(hull, WHITE, 0.7))


def _draw_ball(pen: Pen, chance: random.Random) -> None:
    """A beach ball in bright panels."""
    colors = ((228, 40, 48), WHITE, (250, 204, 30), WHITE, (34, 110, 204), WHITE)
    turn = chance.random()
    pen.ellipse((0, 0.5), (0.5, 0.5), WHITE)
    for number, color in enumerate(colors):
        begin = turn + number / 6
        pen.polygon([(0.06, 0.56), *arc((0, 0.5), (0.5, 0.5), begin, begin + 1 / 6, 6)], color)
    pen.ellipse((-0.16, 0.68), (0.12, 0.1), WHITE, alpha=150, solid=False)


def _draw_kite(pen: Pen, chance: random.Random) -> None:
    """A kite with a tail."""
    first, second = chance.choice(
        (
            ((236, 36, 60), (255, 214, 40)),
            ((120, 50, 190), (60, 210, 190)),
            ((250, 110, 30), (30, 90, 200)),
        )
    )
    pen.line([(0, 0.3), (-0.12, 0.12), (-0.02, 0.0)], 0.045, (60, 60, 70))
    for x, y in ((-0.1, 0.14), (-0.03, 0.02)):
        pen.polygon(
            [
                (x - 0.08, y + 0.03),
                (x + 0.08, y - 0.03),
                (x + 0.08, y + 0.05),
                (x - 0.08, y - 0.05),
            ],
            second,
        )
    top, left, right, low = (0, 1.0), (-0.34, 0.68), (0.34, 0.68), (0, 0.25)
    middle = (0, 0.68)
    pen.polygon([top, left, middle], first)
    pen.polygon([top, right, middle], second)
    pen.polygon([low, left, middle], brighten(second, 0.9))
    pen.polygon([low, right, middle], brighten(first, 0.9))


def _draw_umbrella(pen: Pen, chance: random.Random) -> None:
    """A parasol stuck in the sand."""
    paint = chance.choice(((226, 48, 60), (34, 128, 186), (246, 150, 34)))
    pen.polygon(rectangle(-0.03, 0, 0.03, 0.7), (226, 226, 220))
    # Ribs are meridians: half ellipses of the same height that get narrower.
    for half, color in ((0.62, paint), (0.44, WHITE), (0.2, paint)):
        pen.polygon(arc((0, 0.6), (half, 0.38), 0.0, 0.5, 24), color)
    pen.polygon(arc((0, 0.6), (0.62, 0.04), 0.0, 1.0, 20), brighten(paint, 0.55))
    pen.ellipse((0, 0.985), (0.03, 0.03), WHITE)


def _draw_surfboard(pen: Pen, chance: random.Random) -> None:
    """A surfboard upright in the sand."""
    paint = chance.choice(((250, 226, 120), (120, 220, 226), (250, 150, 130)))
    pen.polygon([*arc((0, 0.5), (0.17, 0.52), 0.0, 1.0, 30)], paint)
    pen.polygon(rectangle(-0.025, 0.02, 0.025, 0.98), WHITE, solid=False)
    pen.polygon(
        [(-0.17, 0.45), (-0.17, 0.56), (0.17, 0.64), (0.17, 0.53)],
        brighten(paint, 0.6),
        solid=False,
    )


def _draw_stop_sign(pen: Pen, chance: random.Random) -> None:
    """An octagonal stop sign on a post, about 2.6 units tall."""
    pen.polygon(rectangle(-0.05, 0.0, 0.05, 1.8), (150, 156, 160))
    for radius, color in ((0.56, WHITE), (0.5, (200, 20, 30))):
        pen.polygon(
            [
                (
                    radius * math.cos((k + 0.5) * math.pi / 4),
                    2.05 + radius * math.sin((k + 0.5) * math.pi / 4),
                )
                for k in range(8)
            ],
            color,
        )
    letters: tuple[list[Point], ...] = (
        [(1, 2), (0, 2), (0, 1), (1, 1), (1, 0), (0, 0)],
        [(0, 2), (1, 2), (0.5, 2), (0.5, 0)],
        [(0, 0), (0, 2), (1, 2), (1, 0), (0, 0)],
        [(0, 0), (0, 2), (1, 2), (1, 1), (0, 1)],
    )
    for number, strokes in enumerate(letters):
        left = -0.37 + 0.2 * number
        pen.line([(left + 0.13 * x, 1.93 + 0.12 * y) for x, y in strokes], 0.05, WHITE)


def _draw_car(pen: Pen, chance: random.Random) -> None:
    """A car from its side, about 3 units long."""
    draw_car_profile(_shrink(pen, 0.66), chance.choice(CAR_PAINTS))


def _draw_cycle(pen: Pen, chance: random.Random) -> None:
    """A bicycle from its side."""
    draw_bicycle(_shrink(pen, 0.9), chance)


def _shrink(pen: Pen, factor: float) -> Pen:
    """The same pen with smaller units."""
    return Pen(pen.layer, pen.foot, pen.unit * factor, flip=pen.sign < 0)


DRAWINGS: dict[str, Callable[[Pen, random.Random], None]] = {
    "person": draw_walker,
    "bicycle": _draw_cycle,
    "car": _draw_car,
    "boat": _draw_boat,
    "stop sign": _draw_stop_sign,
    **ANIMALS,
    "umbrella": _draw_umbrella,
    "kite": _draw_kite,
    "sports ball": _draw_ball,
    "surfboard": _draw_surfboard,
    **OF_ROOMS,
}

# Half width and height of the drawings in units, where they differ from (0.7, 1.1).
REACH: dict[str, tuple[float, float]] = {
    "person": (0.3, 1.05),
    "bicycle": (1.0, 1.1),
    "car": (1.6, 1.1),
    "bird": (1.1, 1.15),
    "dog": (1.1, 1.15),
    "sheep": (0.9, 1.1),
    "banana": (1.0, 1.1),
    "pizza": (1.1, 0.95),
    "couch": (1.2, 1.1),
    "tv": (0.9, 1.1),
    "stop sign": (0.7, 2.7),
}


PLASTERS: tuple[Color, ...] = (
    (196, 122, 88),
    (178, 92, 70),
    (216, 168, 112),
    (204, 148, 120),
    (190, 140, 96),
    (222, 190, 150),
    (164, 108, 92),
    (212, 178, 160),
)
ROOFS: tuple[Color, ...] = ((126, 62, 50), (96, 60, 58), (92, 84, 88))
AWNINGS: tuple[Color, ...] = ((158, 40, 46), (46, 94, 84), (222, 200, 150), (60, 72, 120))
WINDOW: Color = (58, 70, 88)
WINDOW_LIGHT: Color = (150, 176, 198)
LAMP_LIGHT: Color = (255, 214, 130)


def draw_house(
    camera: Camera,
    light: Light,
    chance: random.Random,
    *,
    side: int,
    x: float,
    near: float,
    far: float,
    height: float,
) -> Part:
    """A house whose front lies along the street at lateral position x, from depth near to far.

    Args:
        side: -1 for the left of the street, +1 for the right.
    """
    back = x + side * 12.0
    roof = chance.random() < 0.6
    top = height + (2.4 if roof else 0.5)
    layer = camera.layer(
        *[camera.project(px, py, z) for px in (x, back) for py in (0.0, top) for z in (near, far)]
    )
    plaster = chance.choice(PLASTERS)
    front = brighten(plaster, 1.05 if side != light.sun_side else 1 - 0.7 * light.shadow)
    gable = brighten(plaster, 0.86)
    tiles = chance.choice(ROOFS)

    def point(z: float, y: float, inset: float = 0.0) -> tuple[float, float]:
        return camera.project(x + side * inset, y, z)

    # The end wall that faces the camera, then the front.
    layer.polygon(
        [
            camera.project(px, py, near)
            for px, py in ((x, 0), (x, height), (back, height), (back, 0))
        ],
        gable,
    )
    _draw_gable_windows(camera, layer, chance, side=side, x=x, z=near, height=height)
    if roof:
        layer.polygon(
            [point(near, height), point(far, height), point(far, top, 2.2), point(near, top, 2.2)],
            tiles,
        )
        layer.polygon(
            [
                point(near, height),
                point(near, top, 2.2),
                camera.project(back, top, near),
                camera.project(back, height, near),
            ],
            brighten(tiles, 0.82),
        )
    layer.polygon([point(near, 0), point(near, height), point(far, height), point(far, 0)], front)
    _draw_front(
        layer, chance, point, near=near, far=far, height=height, plaster=front, limit=camera
    )
    band = mix(front, (255, 255, 255), 0.3)
    for low, high in ((height - 0.45, height), (3.15, 3.4)):
        layer.polygon(
            [point(near, low), point(near, high), point(far, high), point(far, low)], band
        )
    return Part("building", layer, (near + far) / 2, haze=haze_of_wall(camera, light, x))


def _draw_front(
    layer: Layer,
    chance: random.Random,
    point,
    *,
    near: float,
    far: float,
    height: float,
    plaster: Color,
    limit: Camera,
) -> None:
    """Windows, shop fronts and awnings along the street; `point(z, y, inset)` projects."""
    count = max(round((far - near) / 2.7), 1)
    bay = (far - near) / count
    storeys = max(int((height - 3.6) / 2.9), 1)
    storey = (height - 3.9) / storeys
    frame = mix(plaster, (255, 255, 255), 0.45)
    awning = chance.choice(AWNINGS)
    shop = chance.random() < 0.7
    lamps = [chance.random() < 0.06 for _ in range(count * storeys)]
    awnings = [chance.random() < 0.55 for _ in range(count)]
    for number in range(count):
        begin = near + number * bay
        left, right = point(begin, 0)[0], point(begin + bay, 0)[0]
        if max(left, right) < -8 or min(left, right) > limit.size[1] + 8:
            continue

        def pane(low: float, high: float, start: float, end: float, color: Color) -> None:
            a, b = begin + start * bay, begin + end * bay  # noqa: B023 - used at once
            layer.polygon([point(a, low), point(a, high), point(b, high), point(b, low)], color)

        if shop:
            pane(0.35, 2.7, 0.08, 0.92, frame)
            pane(0.5, 2.55, 0.13, 0.87, WINDOW)
            pane(1.4, 2.5, 0.16, 0.5, mix(WINDOW, WINDOW_LIGHT, 0.55))
            if awnings[number]:
                a, b = begin + 0.05 * bay, begin + 0.95 * bay
                layer.polygon(
                    [point(a, 2.9), point(b, 2.9), point(b, 2.3, -0.6), point(a, 2.3, -0.6)], awning
                )
                middle = (a + b) / 2
                layer.polygon(
                    [
                        point(middle - 0.25 * bay, 2.9),
                        point(middle, 2.9),
                        point(middle, 2.3, -0.6),
                        point(middle - 0.25 * bay, 2.3, -0.6),
                    ],
                    mix(awning, (255, 255, 255), 0.5),
                )
        else:
            pane(0.0, 2.4, 0.36, 0.64, brighten(plaster, 0.5))
            pane(1.0, 2.4, 0.06, 0.28, WINDOW)
            pane(1.0, 2.4, 0.72, 0.94, WINDOW)
        for floor in range(storeys):
            low = 3.55 + floor * storey + 0.15 * storey
            high = low + 0.62 * storey
            glass = LAMP_LIGHT if lamps[number * storeys + floor] else WINDOW
            pane(low - 0.12, high + 0.1, 0.22, 0.78, frame)
            pane(low, high, 0.27, 0.73, glass)
            pane((low + high) / 2, high, 0.27, 0.5, mix(glass, WINDOW_LIGHT, 0.6))


def _draw_gable_windows(
    camera: Camera,
    layer: Layer,
    chance: random.Random,
    *,
    side: int,
    x: float,
    z: float,
    height: float,
) -> None:
    """Two columns of windows on the end wall that faces the camera."""
    for column in (2.0, 5.0, 8.0):
        for floor in range(int((height - 1.5) / 2.9)):
            low = 1.2 + 2.9 * floor
            if chance.random() < 0.75:
                corners = (
                    (column, low),
                    (column, low + 1.5),
                    (column + 1.1, low + 1.5),
                    (column + 1.1, low),
                )
                layer.polygon([camera.project(x + side * px, py, z) for px, py in corners], WINDOW)


def draw_fence(
    camera: Camera, light: Light, chance: random.Random, *, x: float, near: float, far: float
) -> Part:
    """A picket fence along the street: dark gaps belong to it, as in Cityscapes."""
    height = chance.uniform(1.5, 1.9)
    paint = chance.choice(((150, 84, 38), (164, 94, 42), (138, 78, 40)))
    layer = camera.layer(*[camera.project(x, y, z) for y in (0.0, height) for z in (near, far)])

    def bar(z0: float, z1: float, low: float, high: float, color: Color) -> None:
        layer.polygon(
            [camera.project(x, y, z) for y, z in ((low, z0), (high, z0), (high, z1), (low, z1))],
            color,
        )

    bar(near, far, 0.0, height, brighten(paint, 0.42))
    z = near
    number = 0
    while z < far:
        # At least three pixels from one picket to the next, however far away.
        left = abs(camera.project(x, 0, z)[0] - camera.vanish[0])
        step = max(0.34, 3.0 * z / max(left, 1.0))
        if left < camera.size[1]:
            shade = 0.92 + 0.1 * (number % 3)
            bar(z, min(z + 0.66 * step, far), 0.0, height, brighten(paint, shade))
        z += step
        number += 1
    for low in (0.35, height - 0.45):
        bar(near, far, low, low + 0.16, brighten(paint, 1.22))
    return Part("fence", layer, (near + far) / 2, haze=haze_of_wall(camera, light, x))


def draw_wall(
    camera: Camera, light: Light, chance: random.Random, *, x: float, near: float, far: float
) -> Part:
    """A wall of gray-violet stone blocks."""
    height = chance.uniform(2.0, 2.6)
    stone = chance.choice(((138, 132, 152), (126, 124, 146), (148, 140, 158)))
    layer = camera.layer(
        *[camera.project(x, y, z) for y in (0.0, height + 0.2) for z in (near, far)]
    )

    def block(z0: float, z1: float, low: float, high: float, color: Color) -> None:
        layer.polygon(
            [camera.project(x, y, z) for y, z in ((low, z0), (high, z0), (high, z1), (low, z1))],
            color,
        )

    block(near, far, 0.0, height, brighten(stone, 0.7))
    rows = 4
    for row in range(rows):
        low, high = height * row / rows + 0.05, height * (row + 1) / rows
        z = near + (0.6 if row % 2 else 0.0)
        while z < far:
            left = abs(camera.project(x, 0, z)[0] - camera.vanish[0])
            step = max(1.2, 5.0 * z / max(left, 1.0))
            if left < camera.size[1]:
                color = brighten(stone, 0.9 + 0.22 * chance.random())
                block(z, min(z + 0.92 * step, far), low, high, color)
            z += step
    block(near, far, height, height + 0.2, brighten(stone, 1.25))
    return Part("wall", layer, (near + far) / 2, haze=haze_of_wall(camera, light, x))


def draw_skyline(camera: Camera, light: Light, chance: random.Random) -> Part:
    """Houses far down the street, mere blocks in the haze."""
    height, width = camera.size
    layer = Layer(camera.size, (0, 0, width, camera.vanish[1] + 2), camera.scale)
    x = -0.05 * width
    while x < 1.05 * width:
        wide = chance.uniform(0.05, 0.12) * width
        top = camera.vanish[1] - chance.uniform(0.05, 0.14) * height
        plaster = chance.choice(PLASTERS)
        base = camera.vanish[1] + 2
        layer.polygon(
            [(x, base), (x, top), (x + wide, top), (x + wide, base)], brighten(plaster, 0.9)
        )
        step = 0.022 * height
        rows = int((base - top) / step)
        for row in range(1, rows):
            for column in range(int(wide / step) - 1):
                left, low = x + (column + 0.6) * step, top + row * step
                layer.polygon(
                    [
                        (left, low),
                        (left + 0.45 * step, low),
                        (left + 0.45 * step, low + 0.5 * step),
                        (left, low + 0.5 * step),
                    ],
                    WINDOW,
                )
        x += wide
    return Part("building", layer, 130.0, haze=light.haze_at(80.0))
