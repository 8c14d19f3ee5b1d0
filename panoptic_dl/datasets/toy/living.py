"""People, on foot and on wheels. Units: a walker's own height is 1; cycles are drawn in meters.

Animals of the toy COCO. Origin at the foot, x right, y up, about 1 unit tall.

Trees, hedges and far woods: bumpy outlines filled with leaves in a few tones.
"""

from __future__ import annotations

import math
import random

from panoptic_dl.datasets.toy.canvas import Color, Layer, Pen, Point, brighten, mix
from panoptic_dl.datasets.toy.scene import Camera, Light, Part, Shadow, haze_of_wall, wave

SKINS: tuple[Color, ...] = ((236, 188, 150), (198, 140, 98), (128, 84, 58), (244, 206, 174))
HAIRS: tuple[Color, ...] = ((40, 28, 22), (92, 58, 34), (196, 156, 84), (120, 120, 122))
TOPS: tuple[Color, ...] = (
    (214, 44, 84),
    (232, 92, 140),
    (206, 60, 168),
    (176, 44, 130),
    (226, 56, 56),
    (240, 122, 96),
)
TROUSERS: tuple[Color, ...] = ((40, 52, 92), (58, 60, 70), (84, 66, 56), (36, 40, 52))
VESTS: tuple[Color, ...] = ((196, 240, 40), (180, 232, 24), (214, 248, 70))
RUBBER: Color = (24, 24, 26)


def draw_walker(pen: Pen, chance: random.Random) -> None:
    """A person on foot, facing or walking; height 1."""
    skin, hair = chance.choice(SKINS), chance.choice(HAIRS)
    top, trousers = chance.choice(TOPS), chance.choice(TROUSERS)
    stride = chance.uniform(0.03, 0.13)
    swing = chance.uniform(0.02, 0.09)
    dark = brighten(trousers, 0.75)
    shoe = (30, 26, 26)
    # The far limbs first.
    pen.line(
        [(0.11, 0.76), (0.15 + swing / 2, 0.62), (0.14 + swing, 0.5)], 0.07, brighten(top, 0.72)
    )
    pen.line([(0.04, 0.48), (0.05 + stride * 0.4, 0.27), (stride, 0.035)], 0.1, dark)
    pen.ellipse((stride + 0.025, 0.022), (0.06, 0.024), shoe)
    pen.line([(-0.04, 0.48), (-0.03 - stride * 0.3, 0.27), (-stride, 0.035)], 0.105, trousers)
    pen.ellipse((-stride + 0.025, 0.022), (0.06, 0.024), shoe)
    hem = chance.choice((0.44, 0.44, 0.3))
    pen.polygon(
        [
            (-0.115, hem),
            (-0.125, 0.62),
            (-0.155, 0.78),
            (-0.09, 0.83),
            (0.09, 0.83),
            (0.155, 0.78),
            (0.125, 0.62),
            (0.115, hem),
        ],
        top,
    )
    pen.polygon(
        [(0.03, hem), (0.04, 0.8), (0.15, 0.78), (0.125, 0.62), (0.115, hem)], brighten(top, 0.82)
    )
    if chance.random() < 0.35:
        bag = chance.choice(((70, 96, 150), (120, 84, 40), (60, 60, 64)))
        pen.polygon([(-0.2, 0.56), (-0.2, 0.76), (-0.1, 0.78), (-0.1, 0.54)], bag)
    pen.line(
        [(-0.125, 0.76), (-0.17, 0.62), (-0.15 + swing, 0.49)],
        0.072,
        mix(top, (255, 255, 255), 0.1),
    )
    pen.ellipse((-0.15 + swing, 0.47), (0.03, 0.03), skin)
    pen.polygon([(-0.035, 0.8), (-0.035, 0.88), (0.035, 0.88), (0.035, 0.8)], brighten(skin, 0.85))
    pen.ellipse((0.0, 0.915), (0.072, 0.083), skin)
    # Hair as a cap: low on the nape (negative x), high on the brow; a back of the head has no brow.
    brow, nape = (3, 9) if chance.random() < 0.7 else (-1, 9)
    pen.polygon(
        [
            (math.cos(a * math.pi / 8) * 0.08, 0.925 + math.sin(a * math.pi / 8) * 0.082)
            for a in range(brow - 1, nape + 2)
        ],
        hair,
    )


def draw_bicycle(pen: Pen, chance: random.Random) -> None:
    """A bicycle from its side, facing right; meters."""
    paint = chance.choice(((20, 150, 190), (16, 132, 176), (32, 168, 204)))
    for hub in (-0.54, 0.54):
        pen.ring((hub, 0.35), (0.36, 0.36), 0.085, RUBBER)
        for spoke in range(4):
            cosine, sine = math.cos(spoke * math.pi / 4), math.sin(spoke * math.pi / 4)
            pen.line(
                [(hub - 0.3 * cosine, 0.35 - 0.3 * sine), (hub + 0.3 * cosine, 0.35 + 0.3 * sine)],
                0.035,
                (176, 180, 186),
            )
        pen.ellipse((hub, 0.35), (0.06, 0.06), (90, 92, 96))
    tube = 0.085
    pen.line([(-0.54, 0.35), (-0.18, 0.78), (0.36, 0.8), (0.02, 0.32), (-0.54, 0.35)], tube, paint)
    pen.line([(-0.2, 0.84), (0.02, 0.32)], tube, paint)
    pen.line([(0.54, 0.35), (0.34, 0.98)], tube, brighten(paint, 0.85))
    pen.line([(0.34, 0.98), (0.5, 1.03)], 0.07, (40, 40, 44))
    pen.line([(-0.34, 0.9), (-0.1, 0.9)], 0.1, (50, 38, 30))
    pen.ellipse((0.02, 0.32), (0.11, 0.11), (70, 72, 78))


def _draw_motorcycle(pen: Pen, chance: random.Random) -> None:
    """A motorcycle from its side, facing right; meters."""
    paint = chance.choice(((24, 40, 200), (36, 52, 214), (18, 30, 176)))
    for hub in (-0.7, 0.72):
        pen.ellipse((hub, 0.34), (0.36, 0.35), RUBBER)
        pen.ellipse((hub, 0.34), (0.19, 0.19), (168, 172, 178))
    pen.line([(0.72, 0.34), (0.45, 1.02)], 0.11, (150, 154, 160))
    pen.polygon([(-0.4, 0.25), (-0.5, 0.6), (0.35, 0.62), (0.42, 0.28)], (66, 68, 76))
    pen.polygon(
        [(-1.0, 0.78), (-0.6, 0.6), (0.42, 0.58), (0.5, 0.92), (0.1, 0.98), (-0.1, 0.78)], paint
    )
    pen.polygon([(-0.78, 0.76), (-0.75, 0.88), (-0.1, 0.84), (-0.08, 0.74)], (34, 30, 32))
    pen.polygon(
        [(0.36, 0.8), (0.42, 1.16), (0.6, 1.0), (0.62, 0.78)], mix(paint, (255, 255, 255), 0.2)
    )
    pen.line([(0.38, 1.06), (0.2, 1.1)], 0.07, (40, 40, 44))
    pen.line([(-0.2, 0.3), (-0.95, 0.4)], 0.12, (186, 188, 192))
    pen.ellipse((0.62, 0.88), (0.08, 0.09), (255, 246, 210))


def _draw_cyclist(pen: Pen, chance: random.Random, *, motor: bool) -> None:
    """The rider of either machine, facing right; meters, on the same origin as the machine."""
    vest = chance.choice(VESTS)
    legs = chance.choice(TROUSERS)
    skin = chance.choice(SKINS)
    helmet = (250, 250, 246) if not motor else (244, 244, 238)
    hip = (-0.2, 0.95) if not motor else (-0.3, 0.88)
    shoulder = (0.1, 1.47) if not motor else (-0.02, 1.42)
    grip = (0.42, 1.04) if not motor else (0.3, 1.1)
    knee, foot = ((0.2, 0.74), (0.06, 0.26)) if not motor else ((0.2, 0.78), (0.02, 0.32))
    pen.line(
        [hip, (knee[0] - 0.08, knee[1] + 0.08), (foot[0] - 0.1, foot[1] + 0.16)],
        0.17,
        brighten(legs, 0.75),
    )
    pen.line([hip, shoulder], 0.36, vest)
    pen.line(
        [(hip[0] + 0.06, hip[1] + 0.14), (shoulder[0] + 0.1, shoulder[1] - 0.12)],
        0.07,
        (236, 238, 236),
    )
    pen.line([hip, knee, foot], 0.18, legs)
    pen.ellipse((foot[0] + 0.05, foot[1] - 0.03), (0.14, 0.06), (28, 26, 28))
    pen.line([shoulder, (0.22, 1.18), grip], 0.13, brighten(vest, 0.86))
    pen.ellipse(grip, (0.06, 0.06), skin)
    head = (shoulder[0] + 0.1, shoulder[1] + 0.2)
    pen.ellipse(head, (0.13, 0.15), skin)
    if motor:
        pen.ellipse((head[0], head[1] + 0.02), (0.17, 0.18), helmet)
        pen.polygon(
            [
                (head[0] + 0.03, head[1] - 0.04),
                (head[0] + 0.03, head[1] + 0.08),
                (head[0] + 0.16, head[1] + 0.07),
                (head[0] + 0.16, head[1] - 0.04),
            ],
            (30, 34, 44),
        )
    else:
        pen.polygon(
            [
                (
                    head[0] + math.cos(a * math.pi / 8) * 0.18,
                    head[1] + 0.02 + math.sin(a * math.pi / 8) * 0.17,
                )
                for a in range(9)
            ],
            helmet,
        )


def place_person(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float
) -> Part:
    """Somebody on foot at (x, z) meters."""
    height = chance.uniform(1.68, 1.95)
    foot = camera.project(x, 0, z)
    unit = camera.pixels(height, z)
    layer = camera.layer(
        (foot[0] - 0.3 * unit, foot[1] - 1.05 * unit), (foot[0] + 0.3 * unit, foot[1])
    )
    draw_walker(Pen(layer, foot, unit, flip=chance.random() < 0.5), chance)
    return Part("person", layer, z, is_thing=True, shadow=ground_shadow(camera, light, x, z, 0.34))


def place_rider(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float, motor: bool
) -> list[Part]:
    """A cycle and who rides it, as the two things they are."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    flip = chance.random() < 0.5
    corners = ((foot[0] - 1.15 * unit, foot[1] - 1.95 * unit), (foot[0] + 1.15 * unit, foot[1]))
    cycle, rider = camera.layer(*corners), camera.layer(*corners)
    if motor:
        _draw_motorcycle(Pen(cycle, foot, unit, flip=flip), chance)
    else:
        draw_bicycle(Pen(cycle, foot, unit, flip=flip), chance)
    _draw_cyclist(Pen(rider, foot, unit, flip=flip), chance, motor=motor)
    label = "motorcycle" if motor else "bicycle"
    shadow = ground_shadow(camera, light, x, z, 0.95)
    return [
        Part(label, cycle, z, is_thing=True, shadow=shadow),
        Part("rider", rider, z - 0.01, is_thing=True),
    ]


def place_parked_bicycle(
    camera: Camera, light: Light, chance: random.Random, *, x: float, z: float
) -> Part:
    """A bicycle on its stand."""
    foot = camera.project(x, 0, z)
    unit = camera.pixels(1.0, z)
    layer = camera.layer((foot[0] - unit, foot[1] - 1.15 * unit), (foot[0] + unit, foot[1]))
    draw_bicycle(Pen(layer, foot, unit, flip=chance.random() < 0.5), chance)
    return Part("bicycle", layer, z, is_thing=True, shadow=ground_shadow(camera, light, x, z, 0.9))


def ground_shadow(camera: Camera, light: Light, x: float, z: float, half_width: float) -> Shadow:
    """The soft shadow under something slim."""
    foot = camera.project(x - 0.25 * light.sun_side, 0, z)
    return Shadow(
        foot,
        (camera.pixels(half_width * 1.15, z), camera.pixels(0.13, z)),
        90 + 200 * light.shadow,
        camera.pixels(0.08, z),
    )


DARK: Color = (30, 28, 30)

WHITE: Color = (248, 248, 244)


def _draw_dog(pen: Pen, chance: random.Random) -> None:
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


def _draw_cat(pen: Pen, chance: random.Random) -> None:
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


def _draw_sheep(pen: Pen, chance: random.Random) -> None:
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


def _draw_bird(pen: Pen, chance: random.Random) -> None:
    """A gull on the wing."""
    white = (244, 246, 248)
    gray = (150, 160, 172)
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
            gray if side < 0 else brighten(gray, 1.15),
        )
        pen.polygon(
            [(side * 1.0, 0.3 + lift), (side * 0.78, 0.38 + lift), (side * 0.72, 0.26 + lift)], DARK
        )
    pen.ellipse((0.02, 0.33), (0.3, 0.13), white)
    pen.polygon([(-0.2, 0.35), (-0.48, 0.42), (-0.48, 0.26)], white)
    pen.ellipse((0.3, 0.42), (0.12, 0.11), white)
    pen.polygon([(0.38, 0.46), (0.56, 0.4), (0.38, 0.37)], (244, 160, 40))
    pen.ellipse((0.33, 0.45), (0.025, 0.025), DARK, solid=False)


GREENS: tuple[Color, ...] = ((44, 92, 44), (54, 104, 42), (38, 84, 52), (66, 108, 40))
BARK: Color = (84, 62, 46)


def draw_crown(
    layer: Layer, chance: random.Random, *, center: Point, radii: Point, green: Color, sun_side: int
) -> None:
    """A tree's crown: leaf clumps, darker below and lighter towards the sun; pixels."""
    phases = [chance.random() for _ in range(3)]
    rim = []
    for step in range(40):
        angle = step / 40
        reach = 1.0 + 0.1 * wave(angle, phases)
        rim.append(
            (
                center[0] + radii[0] * reach * math.cos(2 * math.pi * angle),
                center[1] - radii[1] * reach * math.sin(2 * math.pi * angle),
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
            (center[0] + across * radii[0], center[1] - up * radii[1]),
            (size * radii[0] * 1.15, size * radii[1] * 0.8),
            brighten(tone, chance.uniform(0.9, 1.1)),
            solid=_distance_to_rim(across, up) > 0.12,
        )


def _distance_to_rim(across: float, up: float) -> float:
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
        center=(foot[0], foot[1] - 0.64 * height * unit),
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


ANIMALS = {"bird": _draw_bird, "cat": _draw_cat, "dog": _draw_dog, "sheep": _draw_sheep}
