"""Buses, lorries and trams that drive along the street. Metres."""

from __future__ import annotations

import random

from panoptic_dl.data.toy.boxes import GLASS, GLASS_LIGHT, Box, along, stand
from panoptic_dl.data.toy.canvas import Colour, brighten, rectangle
from panoptic_dl.data.toy.scene import Camera, Light, Part

BUS_PAINTS: tuple[Colour, ...] = ((242, 182, 22), (236, 168, 14), (246, 196, 40))

TRUCK_PAINTS: tuple[Colour, ...] = ((232, 108, 34), (222, 96, 26), (240, 122, 48))

TRAIN_PAINTS: tuple[Colour, ...] = ((196, 24, 58), (182, 20, 50))


def draw_bus(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A city bus: one long yellow box with a dark band of windows."""
    paint = chance.choice(BUS_PAINTS)
    length, half, tall = 9.5, 1.25, 3.05
    layer = along(camera, x, z, 2 * half, tall, length)
    profile = [
        (-half, 0.35),
        (-half, tall - 0.15),
        (-half + 0.2, tall),
        (half - 0.2, tall),
        (half, tall - 0.15),
        (half, 0.35),
    ]
    box = Box(camera, layer, profile, x=x, z=z, length=length)
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
        lamp: Colour = (255, 250, 224)
    else:
        box.patch(rectangle(-0.5, 0.72, 0.5, 1.02), (246, 244, 236))
        lamp = (222, 24, 24)
    for side in (-1, 1):
        box.patch(rectangle(side * (half - 0.1), 0.68, side * (half - 0.48), 0.95), lamp)
    return stand(camera, light, "bus", layer, x, z, 2 * half)


def draw_truck(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A lorry: a white ribbed cargo box, an orange cab."""
    paint = chance.choice(TRUCK_PAINTS)
    cargo_paint = chance.choice(((234, 236, 238), (222, 226, 230)))
    length, half, tall = 7.0, 1.25, 3.5
    layer = along(camera, x, z, 2 * half, tall, length)
    share = 0.26 if coming else 0.0
    cargo = Box(
        camera,
        layer,
        rectangle(-half, 0.85, half, tall),
        x=x,
        z=z + share * length,
        length=length * 0.74,
    )
    cab_near = 0.0 if coming else 0.78
    cab = Box(
        camera,
        layer,
        [(-1.15, 0.4), (-1.15, 2.3), (-0.95, 2.65), (0.95, 2.65), (1.15, 2.3), (1.15, 0.4)],
        x=x,
        z=z + cab_near * length,
        length=length * 0.22,
    )
    frame = Box(camera, layer, rectangle(-1.1, 0.42, 1.1, 0.9), x=x, z=z, length=length * 0.97)

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
    return stand(camera, light, "truck", layer, x, z, 2 * half)


def draw_train(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, coming: bool
) -> Part:
    """A tram: long, crimson below and cream above, rounded front."""
    paint = chance.choice(TRAIN_PAINTS)
    length, half, tall = 18.0, 1.2, 3.3
    layer = along(camera, x, z, 2 * half, tall, length)
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
    box = Box(camera, layer, profile, x=x, z=z, length=length)
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
    return stand(camera, light, "train", layer, x, z, 2 * half)
