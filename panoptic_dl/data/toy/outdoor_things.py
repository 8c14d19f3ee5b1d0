"""Things of beach and street in the toy COCO. Origin at the foot, x right, y up, 1 unit tall."""

from __future__ import annotations

import math
import random

from panoptic_dl.data.toy.canvas import Colour, Pen, Point, arc, brighten, mix, rectangle

WHITE: Colour = (248, 248, 244)


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


def draw_umbrella(pen: Pen, chance: random.Random) -> None:
    """A parasol stuck in the sand."""
    paint = chance.choice(((226, 48, 60), (34, 128, 186), (246, 150, 34)))
    pen.polygon(rectangle(-0.03, 0, 0.03, 0.7), (226, 226, 220))
    # Ribs are meridians: half ellipses of the same height that get narrower.
    for half, colour in ((0.62, paint), (0.44, WHITE), (0.2, paint)):
        pen.polygon(arc((0, 0.6), (half, 0.38), 0.0, 0.5, 24), colour)
    pen.polygon(arc((0, 0.6), (0.62, 0.04), 0.0, 1.0, 20), brighten(paint, 0.55))
    pen.ellipse((0, 0.985), (0.03, 0.03), WHITE)


def draw_surfboard(pen: Pen, chance: random.Random) -> None:
    """A surfboard upright in the sand."""
    paint = chance.choice(((250, 226, 120), (120, 220, 226), (250, 150, 130)))
    pen.polygon([*arc((0, 0.5), (0.17, 0.52), 0.0, 1.0, 30)], paint)
    pen.polygon(rectangle(-0.025, 0.02, 0.025, 0.98), WHITE, solid=False)
    pen.polygon(
        [(-0.17, 0.45), (-0.17, 0.56), (0.17, 0.64), (0.17, 0.53)],
        brighten(paint, 0.6),
        solid=False,
    )


def draw_stop_sign(pen: Pen, chance: random.Random) -> None:
    """An octagonal stop sign on a post, about 2.6 units tall."""
    pen.polygon(rectangle(-0.05, 0.0, 0.05, 1.8), (150, 156, 160))
    for radius, colour in ((0.56, WHITE), (0.5, (200, 20, 30))):
        pen.polygon(
            [
                (
                    radius * math.cos((k + 0.5) * math.pi / 4),
                    2.05 + radius * math.sin((k + 0.5) * math.pi / 4),
                )
                for k in range(8)
            ],
            colour,
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
