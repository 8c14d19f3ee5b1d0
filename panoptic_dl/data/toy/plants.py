"""Trees, hedges and far woods: bumpy outlines filled with leaves in a few tones."""

from __future__ import annotations

import math
import random

from panoptic_dl.data.toy.canvas import Colour, Layer, Point, brighten, mix
from panoptic_dl.data.toy.scene import Camera, Light, Part, Shadow, haze_of_wall, wave

GREENS: tuple[Colour, ...] = ((44, 92, 44), (54, 104, 42), (38, 84, 52), (66, 108, 40))
BARK: Colour = (84, 62, 46)


def draw_crown(
    layer: Layer,
    chance: random.Random,
    *,
    centre: Point,
    radii: Point,
    green: Colour,
    sun_side: int,
) -> None:
    """A tree's crown: leaf clumps, darker below and lighter towards the sun; pixels."""
    phases = [chance.random() for _ in range(3)]
    rim = []
    for step in range(40):
        angle = step / 40
        reach = 1.0 + 0.1 * wave(angle, phases)
        rim.append(
            (
                centre[0] + radii[0] * reach * math.cos(2 * math.pi * angle),
                centre[1] - radii[1] * reach * math.sin(2 * math.pi * angle),
            )
        )
    layer.polygon(rim, brighten(green, 0.62))
    clumps = []
    for _ in range(64):
        angle, distance = 2 * math.pi * chance.random(), math.sqrt(chance.random()) * 0.9
        clumps.append((distance * math.cos(angle), distance * math.sin(angle)))
    # Lower clumps first: the upper ones catch the light and lie on top.
    clumps.sort(key=lambda clump: clump[1])
    for across, up in clumps:
        glow = 0.5 + 0.3 * up + 0.22 * across * sun_side
        tone = mix(brighten(green, 0.66), mix(green, (188, 206, 84), 0.5), glow)
        size = chance.uniform(0.1, 0.2)
        layer.ellipse(
            (centre[0] + across * radii[0], centre[1] - up * radii[1]),
            (size * radii[0] * 1.15, size * radii[1] * 0.8),
            brighten(tone, chance.uniform(0.9, 1.1)),
            solid=distance_to_rim(across, up) > 0.12,
        )


def distance_to_rim(across: float, up: float) -> float:
    """How far inside the unit circle a point is."""
    return 1.0 - math.sqrt(across * across + up * up)


def draw_tree(camera: Camera, light: Light, chance: random.Random, *, x: float, z: float) -> Part:
    """A broadleaf tree at (x, z); its trunk is vegetation too."""
    height = chance.uniform(5.5, 8.5)
    spread = chance.uniform(1.7, 2.6)
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer(
        (foot[0] - 1.3 * spread * unit, foot[1] - 1.15 * height * unit),
        (foot[0] + 1.3 * spread * unit, foot[1]),
    )
    trunk = height * 0.45
    layer.polygon(
        [
            (foot[0] - 0.26 * unit, foot[1]),
            (foot[0] - 0.15 * unit, foot[1] - trunk * unit),
            (foot[0] + 0.15 * unit, foot[1] - trunk * unit),
            (foot[0] + 0.26 * unit, foot[1]),
        ],
        BARK,
    )
    draw_crown(
        layer,
        chance,
        centre=(foot[0], foot[1] - 0.64 * height * unit),
        radii=(spread * unit, 0.36 * height * unit),
        green=chance.choice(GREENS),
        sun_side=light.sun_side,
    )
    shade = camera.project(x - 1.2 * light.sun_side, 0, z)
    shadow = Shadow(
        shade,
        (camera.pixels(spread * 1.2, z), camera.pixels(0.3, z)),
        60 + 190 * light.shadow,
        camera.pixels(0.2, z),
    )
    return Part("vegetation", layer, z, shadow=shadow)


def draw_hedge(
    camera: Camera,
    light: Light,
    chance: random.Random,
    *,
    x: float,
    near: float,
    far: float,
    height: float,
) -> Part:
    """A hedge or the edge of a wood along the street at lateral position x."""
    layer = camera.layer(
        *[camera.project(x, y, z) for y in (0.0, 1.35 * height) for z in (near, far)]
    )
    green = chance.choice(GREENS)
    phases = [chance.random() for _ in range(3)]
    steps = 36
    ridge = []
    for step in range(steps + 1):
        # Even steps in 1/z are even steps in the picture.
        z = 1 / (1 / near + (1 / far - 1 / near) * step / steps)
        ridge.append((z, height * (1.0 + 0.16 * wave(step / steps, phases))))
    layer.polygon(
        [camera.project(x, y, z) for z, y in ridge]
        + [camera.project(x, 0, far), camera.project(x, 0, near)],
        brighten(green, 0.66),
    )
    leaves = []
    for _ in range(230):
        z = 1 / (1 / near + (1 / far - 1 / near) * chance.random())
        leaves.append((chance.random() * 0.98, z, chance.uniform(0.6, 1.4)))
    leaves.sort()
    for up, z, big in leaves:
        px, py = camera.project(x, up * height, z)
        radius = camera.pixels(0.11 * height, z) * big
        tone = mix(brighten(green, 0.7), mix(green, (184, 202, 84), 0.45), 0.15 + 0.75 * up)
        layer.ellipse(
            (px, py),
            (radius * 1.1, radius * 0.75),
            brighten(tone, chance.uniform(0.9, 1.1)),
            solid=False,
        )
    return Part("vegetation", layer, (near + far) / 2, haze=haze_of_wall(camera, light, x))


def draw_far_wood(camera: Camera, light: Light, chance: random.Random) -> Part:
    """A belt of trees on the horizon."""
    height, width = camera.size
    layer = Layer(camera.size, (0, 0, width, camera.vanish[1] + 2), camera.scale)
    base = camera.vanish[1] + 2
    green = chance.choice(GREENS)
    phases = [chance.random() for _ in range(3)]
    rise = 0.075 * height
    crest = [
        (width * step / 60, base - rise * (1.0 + 0.3 * wave(step / 60, phases)))
        for step in range(61)
    ]
    layer.polygon([*crest, (width, base), (0, base)], brighten(green, 0.72))
    for _ in range(160):
        px = chance.random() * width
        up = chance.random()
        radius = chance.uniform(0.008, 0.02) * height
        layer.ellipse(
            (px, base - rise * up),
            (radius * 1.3, radius),
            brighten(mix(green, (150, 180, 80), 0.45 * up), 0.85),
            solid=False,
        )
    return Part("vegetation", layer, 125.0, haze=light.haze_at(65.0))
