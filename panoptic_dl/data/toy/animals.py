"""Animals of the toy COCO. Origin at the foot, x right, y up, about 1 unit tall."""

from __future__ import annotations

import math
import random

from panoptic_dl.data.toy.canvas import Colour, Pen, brighten, mix

DARK: Colour = (30, 28, 30)

WHITE: Colour = (248, 248, 244)


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
    pen.polygon(
        [(-0.34, 0.0), (-0.3, 0.4), (-0.16, 0.66), (0.16, 0.66), (0.3, 0.4), (0.34, 0.0)], coat
    )
    pen.ellipse((0, 0.3), (0.17, 0.26), mix(coat, WHITE, 0.7))
    for side in (-1, 1):
        pen.ellipse((side * 0.18, 0.06), (0.13, 0.07), mix(coat, WHITE, 0.5))
        pen.polygon([(side * 0.27, 0.8), (side * 0.24, 1.08), (side * 0.06, 0.92)], coat)
        pen.polygon(
            [(side * 0.23, 0.86), (side * 0.215, 1.0), (side * 0.11, 0.92)], (236, 168, 158)
        )
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
            (chance.uniform(-0.4, 0.4), chance.uniform(0.45, 0.75)),
            (0.1, 0.08),
            brighten(wool, chance.uniform(0.94, 1.04)),
            solid=False,
        )
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
