"""Sky above and ground below a street: the large areas everything else stands before."""

from __future__ import annotations

import random

from PIL import Image

from panoptic_dl.data.toy.canvas import Colour, Layer, brighten, mix
from panoptic_dl.data.toy.scene import Camera, Light, Part, haze_of_ground

FAR = 140.0


def draw_sky(camera: Camera, light: Light, chance: random.Random) -> Part:
    """A gradient with clouds, over the whole picture."""
    height, width = camera.size
    layer = Layer(camera.size, (0, 0, width, height), camera.scale)
    top, low = light.sky
    horizon = max(int(camera.vanish[1]), 2)
    column = bytearray()
    for row in range(height):
        column += bytes(mix(top, low, min(row / horizon, 1.0) ** 0.5 if row else 0.0))
    ramp = Image.frombytes("RGB", (1, height), bytes(column))
    layer.colours.paste(ramp.resize(layer.colours.size, Image.Resampling.BILINEAR), (0, 0))
    layer.mask.paste(255, (0, 0, *layer.mask.size))
    colour, strength = light.cloud
    mask = draw_clouds(chance, (2 * height, width), strength * chance.uniform(0.55, 1.0))
    mask = mask.resize((layer.colours.width, layer.colours.height), Image.Resampling.BICUBIC)
    layer.colours.paste(colour, (0, 0), mask)
    return Part("sky", layer, 1000.0)


def draw_clouds(chance: random.Random, size: tuple[int, int], strength: float) -> Image.Image:
    """Smooth noise in three sizes, of which only the crests are clouds: "L" (W / 2, H / 2)."""
    height, width = size[0] // 4, size[1] // 2
    total = Image.new("L", (width, height))
    for cells, share in ((5, 1.0), (11, 0.5), (25, 0.3)):
        grid = Image.frombytes("L", (cells, cells * 2), chance.randbytes(2 * cells * cells))
        noise = grid.resize((width, height), Image.Resampling.BICUBIC)
        total = Image.blend(total, noise, share / (1.0 + share)) if cells > 5 else noise
    crest = [min(max(int((value - 128) * 5.0), 0), 255) for value in range(256)]
    return total.point([int(value * strength) for value in crest])


def draw_strip(
    camera: Camera, light: Light, label: str, edges: tuple[float, float], colour: Colour
) -> Part:
    """A strip of ground between two lateral positions in metres, up to the horizon."""
    left, right = edges
    # Nearer than the lower edge of the picture, so that the strip is cut by the picture only.
    near = 0.6 * camera.focal * camera.eye / (camera.size[0] - camera.vanish[1])
    corners = [
        camera.project(x, 0, z) for x, z in ((left, near), (left, FAR), (right, FAR), (right, near))
    ]
    layer = camera.layer(*corners)
    layer.polygon(corners, colour)
    return Part(label, layer, 900.0, haze=haze_of_ground(camera, light))


def draw_terrain(
    camera: Camera, light: Light, chance: random.Random, edges: tuple[float, float]
) -> Part:
    """A meadow with tufts and flowers."""
    grass = chance.choice(((146, 176, 76), (158, 180, 84), (138, 168, 72)))
    part = draw_strip(camera, light, "terrain", edges, grass)
    low, high = max(min(edges), -30.0), min(max(edges), 30.0)
    for _ in range(260):
        # Even in 1/z, as it looks in the picture.
        z = 1 / (1 / 5.0 + (1 / 60.0 - 1 / 5.0) * chance.random())
        x = low + (high - low) * chance.random()
        px, py = camera.project(x, 0, z)
        size = camera.pixels(0.16, z) * chance.uniform(0.6, 1.6)
        tone = brighten(grass, chance.choice((0.84, 0.9, 1.1, 1.16)))
        if chance.random() < 0.06:
            part.layer.ellipse((px, py), (size * 0.35, size * 0.25), (246, 232, 120), solid=False)
        else:
            part.layer.ellipse((px, py), (size * 2.2, size * 0.42), tone, solid=False)
    return part


def draw_sidewalk(
    camera: Camera, light: Light, chance: random.Random, edges: tuple[float, float], kerb: float
) -> Part:
    """Slabs with joints, and a bright kerb at lateral position `kerb`."""
    slab = chance.choice(((204, 184, 176), (212, 192, 182), (198, 178, 172)))
    part = draw_strip(camera, light, "sidewalk", edges, slab)
    layer, joint = part.layer, brighten(slab, 0.86)
    left, right = edges
    z = 3.0
    while z < 45:
        layer.line(
            [camera.project(left, 0, z), camera.project(right, 0, z)],
            max(camera.pixels(0.05, z) * 0.5, 0.4),
            joint,
            solid=False,
        )
        z += 0.9 + 0.06 * z
    for number in range(1, 4):
        x = left + (right - left) * number / 4
        layer.line([camera.project(x, 0, 2.0), camera.project(x, 0, 60.0)], 0.6, joint, solid=False)
    inner = kerb + (0.22 if kerb == left else -0.22)
    layer.polygon(
        [
            camera.project(x, 0, z)
            for x, z in ((kerb, 2.0), (kerb, 90.0), (inner, 90.0), (inner, 2.0))
        ],
        mix(slab, (255, 255, 255), 0.45),
        solid=False,
    )
    return part


def draw_road(
    camera: Camera, light: Light, chance: random.Random, half_width: float, *, crossing: float
) -> Part:
    """Asphalt with lanes; `crossing` is the depth of a zebra crossing in metres, 0 for none."""
    asphalt = chance.choice(((88, 88, 98), (96, 94, 102), (80, 82, 92)))
    part = draw_strip(camera, light, "road", (-half_width, half_width), asphalt)
    layer = part.layer
    paint = (226, 226, 220)

    def stripe(x: float, width: float, near: float, far: float, colour: Colour = paint) -> None:
        corners = ((x, near), (x, far), (x + width, far), (x + width, near))
        layer.polygon([camera.project(px, 0, z) for px, z in corners], colour, solid=False)

    for lane in (-0.6, 0.55):
        stripe(half_width * lane - 0.35, 0.7, 2.0, 100.0, brighten(asphalt, 0.94))
    for _ in range(3):
        z, x = chance.uniform(5, 20), chance.uniform(-0.8, 0.5) * half_width
        stripe(
            x,
            chance.uniform(0.5, 1.4),
            z,
            z + chance.uniform(0.6, 2.5),
            brighten(asphalt, chance.choice((0.86, 1.08))),
        )
    for side in (-1, 1):
        stripe(side * (half_width - 0.32) - 0.06, 0.12, 2.0, 110.0)
    z = 3.0 + 3.0 * chance.random()
    while z < 90:
        if not crossing or not crossing - 1.5 < z < crossing + 3.5:
            stripe(-0.09, 0.18, z, z + 2.2)
        z += 4.6
    if crossing:
        x = -half_width + 0.4
        while x < half_width - 0.5:
            stripe(x, 0.48, crossing, crossing + 2.6)
            x += 0.96
    return part


def draw_long_shadow(
    camera: Camera, part: Part, light: Light, reach: tuple[float, float, float]
) -> None:
    """The shadow of a row of houses on a strip of ground that is already painted.

    Args:
        reach: lateral position of its two edges, and the depth where it ends, in metres.
    """
    edge, tip, far = reach
    corners = ((edge, 2.0), (edge, far), (tip, far * 0.97), (tip, 2.0))
    part.layer.polygon(
        [camera.project(x, 0, z) for x, z in corners],
        (16, 18, 40),
        alpha=round(255 * light.shadow * 0.8),
        solid=False,
    )


def draw_hood(camera: Camera, chance: random.Random) -> Part:
    """The bonnet of the car that carries the camera: "ego vehicle"."""
    height, width = camera.size
    rise = chance.uniform(0.07, 0.11) * height
    layer = Layer(camera.size, (0, height - 1.3 * rise, width, height), camera.scale)
    paint = chance.choice(((38, 42, 50), (52, 54, 60), (60, 30, 34)))
    for inset, factor in ((0.0, 1.0), (0.16, 1.25), (0.4, 1.1), (0.7, 0.85)):
        rim = [(0.0, float(height + 1))]
        for step in range(25):
            across = step / 24
            curve = 1.0 - (2 * across - 1) ** 4 * 0.75
            rim.append((across * width, height - rise * (curve - inset)))
        rim.append((float(width), float(height + 1)))
        layer.polygon(rim, brighten(paint, factor))
    return Part("ego vehicle", layer, 0.0)
