"""The things of the toy COCO by the names of their categories."""

from __future__ import annotations

import random
from collections.abc import Callable

from panoptic_dl.data.toy import animals, household_things, outdoor_things
from panoptic_dl.data.toy.canvas import Pen
from panoptic_dl.data.toy.cars import CAR_PAINTS, draw_car_profile
from panoptic_dl.data.toy.people import draw_bicycle, draw_walker


def draw_car(pen: Pen, chance: random.Random) -> None:
    """A car from its side, about 3 units long."""
    draw_car_profile(shrink(pen, 0.66), chance.choice(CAR_PAINTS))


def draw_cycle(pen: Pen, chance: random.Random) -> None:
    """A bicycle from its side."""
    draw_bicycle(shrink(pen, 0.9), chance)


def shrink(pen: Pen, factor: float) -> Pen:
    """The same pen with smaller units."""
    return Pen(pen.layer, pen.foot, pen.unit * factor, flip=pen.sign < 0)


DRAWINGS: dict[str, Callable[[Pen, random.Random], None]] = {
    "person": draw_walker,
    "bicycle": draw_cycle,
    "car": draw_car,
    "boat": outdoor_things.draw_boat,
    "stop sign": outdoor_things.draw_stop_sign,
    "bird": animals.draw_bird,
    "cat": animals.draw_cat,
    "dog": animals.draw_dog,
    "sheep": animals.draw_sheep,
    "umbrella": outdoor_things.draw_umbrella,
    "kite": outdoor_things.draw_kite,
    "sports ball": outdoor_things.draw_ball,
    "surfboard": outdoor_things.draw_surfboard,
    "bottle": household_things.draw_bottle,
    "cup": household_things.draw_cup,
    "banana": household_things.draw_banana,
    "apple": household_things.draw_apple,
    "orange": household_things.draw_orange,
    "pizza": household_things.draw_pizza,
    "chair": household_things.draw_chair,
    "couch": household_things.draw_couch,
    "potted plant": household_things.draw_plant,
    "tv": household_things.draw_tv,
    "clock": household_things.draw_clock,
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
