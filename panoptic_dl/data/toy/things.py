"""Everyday things of COCO, each drawn in its own frame: origin at its foot, x right, y up, about 1 unit tall."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from panoptic_dl.data.toy.canvas import Colour, Pen, Point, brighten, mix
from panoptic_dl.data.toy.people import draw_bicycle, draw_walker
from panoptic_dl.data.toy.vehicles import CAR_PAINTS, draw_car_profile

DARK: Colour = (30, 28, 30)
WHITE: Colour = (248, 248, 244)


def arc(centre: Point, radii: Point, begin: float, end: float, steps: int = 18) -> list[Point]:
    """Points of an ellipse between two angles in turns, counter-clockwise from the right."""
    points = []
    for step in range(steps + 1):
        angle = 2 * math.pi * (begin + (end - begin) * step / steps)
        points.append((centre[0] + radii[0] * math.cos(angle), centre[1] + radii[1] * math.sin(angle)))
    return points


def rectangle(left: float, low: float, right: float, high: float) -> list[Point]:
    """Corners of an upright rectangle."""
    return [(left, low), (left, high), (right, high), (right, low)]


def draw_person(pen: Pen, chance: random.Random) -> None:
    """Somebody on foot."""
    draw_walker(pen, chance)


def draw_car(pen: Pen, chance: random.Random) -> None:
    """A car from its side, about 3 units long."""
    draw_car_profile(shrink(pen, 0.66), chance.choice(CAR_PAINTS))


def draw_cycle(pen: Pen, chance: random.Random) -> None:
    """A bicycle from its side."""
    draw_bicycle(shrink(pen, 0.9), chance)


def shrink(pen: Pen, factor: float) -> Pen:
    """The same pen with smaller units."""
    return Pen(pen.layer, pen.foot, pen.unit * factor, flip=pen.sign < 0)


def draw_dog(pen: Pen, chance: random.Random) -> None:
    """A dog that stands, facing right."""
    coat = chance.choice(((150, 98, 52), (176, 122, 70), (122, 76, 42)))
    dark = brighten(coat, 0.72)
    for x in (-0.38, 0.36):
        pen.line([(x, 0.5), (x + 0.02, 0.05)], 0.13, dark)
    pen.line([(-0.55, 0.66), (-0.75, 0.95)], 0.1, coat)
    pen.ellipse((-0.05, 0.58), (0.58, 0.22), coat)
    for x in (-0.5, 0.25):
        pen.line([(x, 0.5), (x, 0.05)], 0.15, coat)
        pen.ellipse((x + 0.05, 0.05), (0.11, 0.05), coat)
    pen.line([(0.38, 0.64), (0.56, 0.86)], 0.26, coat)
    pen.ellipse((0.62, 0.9), (0.22, 0.18), coat)
    pen.ellipse((0.84, 0.84), (0.16, 0.1), mix(coat, WHITE, 0.25))
    pen.ellipse((0.98, 0.87), (0.045, 0.04), DARK)
    pen.ellipse((0.66, 0.95), (0.03, 0.035), DARK, solid=False)
    pen.polygon([(0.44, 1.04), (0.36, 0.66), (0.54, 0.8), (0.58, 1.04)], dark)
    pen.polygon([(0.36, 0.7), (0.4, 0.6), (0.62, 0.7), (0.58, 0.78)], (200, 40, 44), solid=False)


def draw_cat(pen: Pen, chance: random.Random) -> None:
    """A cat that sits, seen from the front."""
    coat = chance.choice(((232, 140, 58), (222, 128, 48), (240, 152, 72)))
    stripe = brighten(coat, 0.72)
    pen.line([(0.3, 0.12), (0.55, 0.2), (0.58, 0.5)], 0.11, coat)
    pen.polygon([(-0.34, 0.0), (-0.3, 0.4), (-0.16, 0.66), (0.16, 0.66), (0.3, 0.4), (0.34, 0.0)], coat)
    pen.ellipse((0, 0.3), (0.17, 0.26), mix(coat, WHITE, 0.7))
    for side in (-1, 1):
        pen.ellipse((side * 0.18, 0.06), (0.13, 0.07), mix(coat, WHITE, 0.5))
        pen.polygon([(side * 0.27, 0.8), (side * 0.24, 1.08), (side * 0.06, 0.92)], coat)
        pen.polygon([(side * 0.23, 0.86), (side * 0.215, 1.0), (side * 0.11, 0.92)], (236, 168, 158))
    pen.ellipse((0, 0.76), (0.29, 0.23), coat)
    for x in (-0.1, 0.0, 0.1):
        pen.line([(x, 0.98), (x * 0.8, 0.88)], 0.035, stripe, solid=False)
    for side in (-1, 1):
        pen.line([(side * 0.33, 0.45 - 0.1), (side * 0.2, 0.4)], 0.04, stripe, solid=False)
        pen.ellipse((side * 0.11, 0.78), (0.055, 0.06), (120, 190, 90), solid=False)
        pen.ellipse((side * 0.11, 0.78), (0.02, 0.055), DARK, solid=False)
    pen.ellipse((0, 0.68), (0.11, 0.07), mix(coat, WHITE, 0.75), solid=False)
    pen.ellipse((0, 0.7), (0.035, 0.025), (216, 110, 110), solid=False)


def draw_sheep(pen: Pen, chance: random.Random) -> None:
    """A sheep, facing right."""
    wool = chance.choice(((240, 236, 224), (230, 226, 214)))
    face = (58, 52, 52)
    for x in (-0.38, -0.2, 0.18, 0.36):
        pen.line([(x, 0.4), (x, 0.05)], 0.1, face)
    pen.ellipse((0, 0.58), (0.56, 0.33), brighten(wool, 0.9))
    for step in range(12):
        angle = step * math.pi / 6
        pen.ellipse(
            (0.44 * math.cos(angle), 0.58 + 0.24 * math.sin(angle)),
            (0.17, 0.15),
            brighten(wool, 0.9 + 0.1 * math.sin(angle)),
        )
    for _ in range(14):
        pen.ellipse(
            (chance.uniform(-0.4, 0.4), chance.uniform(0.45, 0.75)), (0.1, 0.08),
            brighten(wool, chance.uniform(0.94, 1.04)), solid=False,
        )  # fmt: skip
    pen.ellipse((0.64, 0.68), (0.17, 0.21), face)
    pen.ellipse((0.5, 0.78), (0.12, 0.05), face)
    pen.ellipse((0.58, 0.86), (0.14, 0.09), wool)
    pen.ellipse((0.68, 0.73), (0.03, 0.035), WHITE, solid=False)


def draw_bird(pen: Pen, chance: random.Random) -> None:
    """A gull on the wing."""
    white = (244, 246, 248)
    grey = (150, 160, 172)
    lift = chance.uniform(0.35, 0.6)
    for side in (-1, 1):
        pen.polygon(
            [
                (side * 0.05, 0.42),
                (side * 0.5, 0.45 + lift),
                (side * 1.0, 0.3 + lift),
                (side * 0.55, 0.25 + lift * 0.8),
                (side * 0.1, 0.24),
            ],
            grey if side < 0 else brighten(grey, 1.15),
        )
        pen.polygon(
            [(side * 1.0, 0.3 + lift), (side * 0.78, 0.38 + lift), (side * 0.72, 0.26 + lift)], DARK
        )
    pen.ellipse((0.02, 0.33), (0.3, 0.13), white)
    pen.polygon([(-0.2, 0.35), (-0.48, 0.42), (-0.48, 0.26)], white)
    pen.ellipse((0.3, 0.42), (0.12, 0.11), white)
    pen.polygon([(0.38, 0.46), (0.56, 0.4), (0.38, 0.37)], (244, 160, 40))
    pen.ellipse((0.33, 0.45), (0.025, 0.025), DARK, solid=False)


def draw_boat(pen: Pen, chance: random.Random) -> None:
    """A sailing boat."""
    hull = chance.choice(((178, 40, 44), (40, 62, 120), (120, 70, 40)))
    sail = chance.choice(((250, 248, 238), (250, 236, 206)))
    pen.line([(0.0, 0.15), (0.0, 1.0)], 0.045, (110, 80, 50))
    pen.polygon([(0.03, 0.98), (0.03, 0.26), (0.42, 0.26)], sail)
    pen.polygon([(-0.02, 0.9), (-0.02, 0.26), (-0.36, 0.28)], brighten(sail, 0.86))
    pen.polygon([(-0.02, 0.3), (0.03, 0.3), (0.03, 0.2), (-0.02, 0.2)], sail)
    pen.polygon([(-0.55, 0.22), (-0.4, 0.0), (0.38, 0.0), (0.62, 0.24)], hull)
    pen.polygon([(-0.55, 0.22), (-0.52, 0.17), (0.57, 0.19), (0.62, 0.24)], mix(hull, WHITE, 0.7))


def draw_ball(pen: Pen, chance: random.Random) -> None:
    """A beach ball in bright panels."""
    colours = ((228, 40, 48), WHITE, (250, 204, 30), WHITE, (34, 110, 204), WHITE)
    turn = chance.random()
    pen.ellipse((0, 0.5), (0.5, 0.5), WHITE)
    for number, colour in enumerate(colours):
        begin = turn + number / 6
        pen.polygon([(0.06, 0.56), *arc((0, 0.5), (0.5, 0.5), begin, begin + 1 / 6, 6)], colour)
    pen.ellipse((-0.16, 0.68), (0.12, 0.1), WHITE, alpha=150, solid=False)


def draw_kite(pen: Pen, chance: random.Random) -> None:
    """A kite with a tail."""
    first, second = chance.choice(
        (((236, 36, 60), (255, 214, 40)), ((120, 50, 190), (60, 210, 190)), ((250, 110, 30), (30, 90, 200)))
    )
    pen.line([(0, 0.3), (-0.12, 0.12), (-0.02, 0.0)], 0.045, (60, 60, 70))
    for x, y in ((-0.1, 0.14), (-0.03, 0.02)):
        pen.polygon([(x - 0.08, y + 0.03), (x + 0.08, y - 0.03), (x + 0.08, y + 0.05), (x - 0.08, y - 0.05)], second)
    top, left, right, low = (0, 1.0), (-0.34, 0.68), (0.34, 0.68), (0, 0.25)
    middle = (0, 0.68)
    pen.polygon([top, left, middle], first)
    pen.polygon([top, right, middle], second)
    pen.polygon([low, left, middle], brighten(second, 0.9))
    pen.polygon([low, right, middle], brighten(first, 0.9))


def draw_umbrella(pen: Pen, chance: random.Random) -> None:
    """A parasol stuck in the sand."""
    paint = chance.choice(((226, 48, 60), (34, 128, 186), (246, 150, 34)))
    pen.polygon(rectangle(-0.03, 0, 0.03, 0.7), (226, 226, 220))
    count = 6
    for number in range(count):
        begin, end = 0.5 - number / count / 2, 0.5 - (number + 1) / count / 2
        outer = arc((0, 0.6), (0.62, 0.38), begin, end, 5)
        pen.polygon([(0, 0.98), *outer], paint if number % 2 else WHITE)
    pen.polygon(arc((0, 0.6), (0.62, 0.05), 0.5, 1.0, 10), brighten(paint, 0.55))
    pen.ellipse((0, 0.985), (0.03, 0.03), WHITE)


def draw_surfboard(pen: Pen, chance: random.Random) -> None:
    """A surfboard upright in the sand."""
    paint = chance.choice(((250, 226, 120), (120, 220, 226), (250, 150, 130)))
    pen.polygon([*arc((0, 0.5), (0.17, 0.52), 0.0, 1.0, 30)], paint)
    pen.polygon(rectangle(-0.025, 0.02, 0.025, 0.98), WHITE, solid=False)
    pen.polygon([(-0.17, 0.45), (-0.17, 0.56), (0.17, 0.64), (0.17, 0.53)], brighten(paint, 0.6), solid=False)


def draw_chair(pen: Pen, chance: random.Random) -> None:
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


def draw_couch(pen: Pen, chance: random.Random) -> None:
    """A sofa with two cushions, about 2.2 units wide."""
    cloth = chance.choice(((62, 96, 142), (86, 128, 104), (150, 84, 96)))
    dark, pale = brighten(cloth, 0.72), brighten(cloth, 1.18)
    for x in (-0.95, 0.85):
        pen.polygon(rectangle(x, 0, x + 0.1, 0.14), (70, 50, 36))
    pen.polygon([(-0.9, 0.4), (-0.86, 0.94), (-0.8, 1.0), (0.8, 1.0), (0.86, 0.94), (0.9, 0.4)], cloth)
    pen.polygon(rectangle(-1.0, 0.1, 1.0, 0.38), dark)
    for x in (-0.82, 0.02):
        pen.polygon([(x, 0.36), (x, 0.5), (x + 0.04, 0.54), (x + 0.76, 0.54), (x + 0.8, 0.5), (x + 0.8, 0.36)], pale)
    for side in (-1, 1):
        pen.polygon(rectangle(side * 1.08, 0.1, side * 0.82, 0.6), cloth)
        pen.ellipse((side * 0.95, 0.6), (0.15, 0.12), pale)
    cushion = chance.choice(((240, 200, 90), (230, 226, 214)))
    pen.polygon([(-0.7, 0.56), (-0.74, 0.86), (-0.42, 0.9), (-0.38, 0.56)], cushion)


def draw_plant(pen: Pen, chance: random.Random) -> None:
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


def draw_tv(pen: Pen, chance: random.Random) -> None:
    """A television set that is on."""
    pen.polygon(rectangle(-0.35, 0.0, 0.35, 0.06), (44, 44, 48))
    pen.polygon(rectangle(-0.08, 0.0, 0.08, 0.16), (44, 44, 48))
    pen.polygon(rectangle(-0.8, 0.12, 0.8, 1.0), (22, 22, 26))
    pen.polygon(rectangle(-0.75, 0.18, 0.75, 0.95), (60, 130, 214))
    pen.polygon([(-0.75, 0.18), (-0.75, 0.4), (-0.2, 0.62), (0.3, 0.36), (0.75, 0.5), (0.75, 0.18)], (60, 150, 90))
    pen.ellipse((0.42, 0.76), (0.09, 0.09), (255, 232, 140))


def draw_clock(pen: Pen, chance: random.Random) -> None:
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
        pen.line([(0, 0.5), (length * math.cos(angle), 0.5 + length * math.sin(angle))], width, DARK)


def draw_bottle(pen: Pen, chance: random.Random) -> None:
    """A wine bottle."""
    glass = chance.choice(((34, 92, 52), (28, 80, 46), (44, 104, 58)))
    pen.polygon(
        [
            (-0.15, 0.02), (-0.15, 0.56), (-0.06, 0.72), (-0.06, 0.98),
            (0.06, 0.98), (0.06, 0.72), (0.15, 0.56), (0.15, 0.02),
        ],
        glass,
    )  # fmt: skip
    pen.polygon(rectangle(-0.07, 0.86, 0.07, 1.0), (150, 30, 46))
    pen.polygon(rectangle(-0.15, 0.16, 0.15, 0.44), (240, 230, 204))
    pen.polygon(rectangle(-0.1, 0.3, 0.1, 0.36), (150, 30, 46))
    pen.polygon(rectangle(-0.11, 0.46, -0.07, 0.58), mix(glass, WHITE, 0.6))


def draw_cup(pen: Pen, chance: random.Random) -> None:
    """A mug."""
    glaze = chance.choice(((240, 240, 246), (90, 150, 220), (226, 236, 250)))
    pen.ring((0.46, 0.5), (0.24, 0.27), 0.1, brighten(glaze, 0.85))
    pen.polygon([(-0.36, 0.06), (-0.42, 0.92), (0.42, 0.92), (0.36, 0.06)], glaze)
    pen.ellipse((0, 0.08), (0.36, 0.08), glaze)
    pen.polygon([(0.14, 0.05), (0.18, 0.9), (0.42, 0.92), (0.36, 0.06)], brighten(glaze, 0.86))
    pen.ellipse((0, 0.92), (0.42, 0.1), brighten(glaze, 0.92))
    pen.ellipse((0, 0.91), (0.36, 0.075), (92, 56, 34))


def draw_pizza(pen: Pen, chance: random.Random) -> None:
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
        pen.ellipse((0.6 * math.cos(angle), 0.46 + 0.22 * math.sin(angle)), (0.05, 0.022), (70, 130, 50))


def draw_apple(pen: Pen, chance: random.Random) -> None:
    """An apple."""
    skin = chance.choice(((204, 28, 36), (188, 22, 40), (214, 48, 36)))
    pen.line([(0, 0.75), (0.06, 1.0)], 0.07, (90, 60, 34))
    for side in (-1, 1):
        pen.ellipse((side * 0.16, 0.42), (0.34, 0.42), skin)
    pen.polygon([(0.04, 0.86), (0.26, 1.0), (0.36, 0.84), (0.16, 0.8)], (80, 150, 50))
    pen.ellipse((-0.2, 0.56), (0.1, 0.14), mix(skin, WHITE, 0.55), solid=False)


def draw_orange(pen: Pen, chance: random.Random) -> None:
    """An orange."""
    skin = chance.choice(((250, 142, 20), (246, 130, 14)))
    pen.ellipse((0, 0.5), (0.5, 0.5), brighten(skin, 0.88))
    pen.ellipse((-0.04, 0.54), (0.44, 0.44), skin)
    pen.ellipse((-0.16, 0.7), (0.13, 0.1), mix(skin, WHITE, 0.5))
    pen.ellipse((0.05, 0.95), (0.05, 0.03), (90, 120, 40), solid=False)


def draw_banana(pen: Pen, chance: random.Random) -> None:
    """A banana, about 1.7 units wide."""
    skin = chance.choice(((250, 220, 60), (244, 210, 44)))
    outer = arc((0, 1.0), (0.85, 0.95), 0.53, 0.97, 14)
    inner = arc((0, 1.15), (0.72, 0.72), 0.97, 0.53, 14)
    pen.polygon([*outer, *inner], skin)
    middle = arc((0, 1.07), (0.79, 0.83), 0.97, 0.53, 14)
    pen.polygon([*outer, *middle], brighten(skin, 0.84), solid=False)
    pen.polygon([(0.78, 0.82), (0.84, 1.0), (0.92, 0.98), (0.86, 0.8)], (110, 84, 30))
    pen.ellipse((-0.8, 0.9), (0.06, 0.06), (90, 70, 30))


def draw_stop_sign(pen: Pen, chance: random.Random) -> None:
    """An octagonal stop sign on a post, about 2.6 units tall."""
    pen.polygon(rectangle(-0.05, 0.0, 0.05, 1.8), (150, 156, 160))
    for radius, colour in ((0.56, WHITE), (0.5, (200, 20, 30))):
        pen.polygon(
            [
                (radius * math.cos((k + 0.5) * math.pi / 4), 2.05 + radius * math.sin((k + 0.5) * math.pi / 4))
                for k in range(8)
            ],
            colour,
        )
    for left in (-0.34, -0.16, 0.02, 0.2):
        pen.polygon(rectangle(left, 1.92, left + 0.12, 2.18), WHITE)
        pen.polygon(rectangle(left + 0.04, 1.98, left + 0.12, 2.08), (200, 20, 30))


DRAWINGS: dict[str, Callable[[Pen, random.Random], None]] = {
    "person": draw_person,
    "bicycle": draw_cycle,
    "car": draw_car,
    "boat": draw_boat,
    "stop sign": draw_stop_sign,
    "bird": draw_bird,
    "cat": draw_cat,
    "dog": draw_dog,
    "sheep": draw_sheep,
    "umbrella": draw_umbrella,
    "kite": draw_kite,
    "sports ball": draw_ball,
    "surfboard": draw_surfboard,
    "bottle": draw_bottle,
    "cup": draw_cup,
    "banana": draw_banana,
    "apple": draw_apple,
    "orange": draw_orange,
    "pizza": draw_pizza,
    "chair": draw_chair,
    "couch": draw_couch,
    "potted plant": draw_plant,
    "tv": draw_tv,
    "clock": draw_clock,
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
