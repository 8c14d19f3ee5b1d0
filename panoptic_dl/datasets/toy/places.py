"""A picture of the toy COCO while it is being put together. Pixels throughout.

Sky above and ground below a street: the large areas everything else stands before.

Scenes of the toy COCO indoors: a laid table, a living room. Pixels.

Scenes of the toy COCO in the open: a beach, a meadow, a street corner. Pixels.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from PIL import Image

from panoptic_dl.datasets.toy import living as plants
from panoptic_dl.datasets.toy.canvas import Color, Layer, Pen, Point, brighten, mix, rectangle
from panoptic_dl.datasets.toy.outdoor import DRAWINGS, PLASTERS, REACH, ROOFS, WINDOW, WINDOW_LIGHT
from panoptic_dl.datasets.toy.scene import (
    WEATHERS,
    Camera,
    Light,
    Part,
    Room,
    Shadow,
    haze_of_ground,
    merge_crowd,
    settle,
    wave,
)

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
    layer.colors.paste(ramp.resize(layer.colors.size, Image.Resampling.BILINEAR), (0, 0))
    layer.mask.paste(255, (0, 0, *layer.mask.size))
    color, strength = light.cloud
    mask = _draw_clouds(chance, (2 * height, width), strength * chance.uniform(0.55, 1.0))
    mask = mask.resize((layer.colors.width, layer.colors.height), Image.Resampling.BICUBIC)
    layer.colors.paste(color, (0, 0), mask)
    return Part("sky", layer, 1000.0)


def _draw_clouds(chance: random.Random, size: tuple[int, int], strength: float) -> Image.Image:
    """Smooth noise in three sizes, of which only the crests are clouds: "L" (W / 2, H / 2)."""
    height, width = size[0] // 4, size[1] // 2
    total = Image.new("L", (width, height))
    for cells, share in ((5, 1.0), (11, 0.5), (25, 0.3)):
        grid = Image.frombytes("L", (cells, cells * 2), chance.randbytes(2 * cells * cells))
        noise = grid.resize((width, height), Image.Resampling.BICUBIC)
        total = Image.blend(total, noise, share / (1.0 + share)) if cells > 5 else noise
    crest = [min(max(int((value - 128) * 5.0), 0), 255) for value in range(256)]
    return total.point([int(value * strength) for value in crest])


def _draw_strip(
    camera: Camera, light: Light, label: str, edges: tuple[float, float], color: Color
) -> Part:
    """A strip of ground between two lateral positions in meters, up to the horizon."""
    left, right = edges
    # Nearer than the lower edge of the picture, so that the strip is cut by the picture only.
    near = 0.6 * camera.focal * camera.eye / (camera.size[0] - camera.vanish[1])
    corners = [
        camera.project(x, 0, z) for x, z in ((left, near), (left, FAR), (right, FAR), (right, near))
    ]
    layer = camera.layer(*corners)
    layer.polygon(corners, color)
    return Part(label, layer, 900.0, haze=haze_of_ground(camera, light))


def draw_terrain(
    camera: Camera, light: Light, chance: random.Random, edges: tuple[float, float]
) -> Part:
    """A meadow with tufts and flowers."""
    grass = chance.choice(((146, 176, 76), (158, 180, 84), (138, 168, 72)))
    part = _draw_strip(camera, light, "terrain", edges, grass)
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
    part = _draw_strip(camera, light, "sidewalk", edges, slab)
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
    """Asphalt with lanes; `crossing` is the depth of a zebra crossing in meters, 0 for none."""
    asphalt = chance.choice(((88, 88, 98), (96, 94, 102), (80, 82, 92)))
    part = _draw_strip(camera, light, "road", (-half_width, half_width), asphalt)
    layer = part.layer
    paint = (226, 226, 220)

    def stripe(x: float, width: float, near: float, far: float, color: Color = paint) -> None:
        corners = ((x, near), (x, far), (x + width, far), (x + width, near))
        layer.polygon([camera.project(px, 0, z) for px, z in corners], color, solid=False)

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
        reach: lateral position of its two edges, and the depth where it ends, in meters.
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


NO_CATEGORY = ""  # the label of what belongs to no category


class _Place:
    """A picture while it is being put together.

    Args:
        chance: the sample's source of chance.
        size: (H, W) in pixels.
        scale: supersampling factor.
        light: weather, or `INDOORS`.
    """

    def __init__(
        self, chance: random.Random, size: tuple[int, int], scale: int, light: Light
    ) -> None:
        self.chance = chance
        self.size = size
        self.scale = scale
        self.light = light
        self.side = min(size)
        self.room = Room(size)
        self.backdrop: list[Part] = []
        self.things: list[Part] = []

    def sheet(self, label: str, points: Sequence[Point], color: Color) -> Layer:
        """A large area with a straight or wavy edge."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        layer = Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)
        layer.polygon(points, color)
        self.backdrop.append(Part(label, layer, 1e6))
        return layer

    def band(self, label: str, top: float, color: Color, *, swell: float = 0.0) -> Layer:
        """Everything below `top`, whose edge swells by so many pixels."""
        height, width = self.size
        phases = [self.chance.random() for _ in range(3)]
        edge = [(width * k / 40, top - swell * (1 + wave(k / 40, phases)) / 2) for k in range(41)]
        return self.sheet(label, [(0, height + 1), *edge, (width + 1, height + 1)], color)

    def gradient(self, layer: Layer, top: Color, low: Color) -> None:
        """Recolors a layer from its top to its bottom."""
        rows = layer.y1 - layer.y0
        ramp = bytearray()
        for row in range(rows):
            ramp += bytes(mix(top, low, row / max(rows - 1, 1)))
        column = Image.frombytes("RGB", (1, rows), bytes(ramp))
        layer.colors.paste(column.resize(layer.colors.size, Image.Resampling.BILINEAR), (0, 0))

    def sky(self, horizon: float) -> None:
        """Sky with clouds down to the horizon."""
        camera = Camera(self.size, self.scale, 1.0, (self.size[1] / 2, horizon), 1.0)
        part = draw_sky(camera, self.light, self.chance)
        part.label = "sky-other-merged"
        self.backdrop.append(part)

    def speckle(
        self, layer: Layer, color: Color, count: int, *, stretch: float, size: float
    ) -> None:
        """Strews flat specks that grow towards the bottom of a layer."""
        for _ in range(count):
            depth = self.chance.random()
            y = layer.y0 + depth * depth * (layer.y1 - layer.y0)
            x = layer.x0 + self.chance.random() * (layer.x1 - layer.x0)
            radius = size * (0.3 + depth) * self.chance.uniform(0.6, 1.4)
            tone = brighten(color, self.chance.choice((0.9, 0.95, 1.06, 1.1)))
            layer.ellipse((x, y), (radius * stretch, radius), tone, solid=False)

    def draw(self, name: str, foot: Point, unit: float, *, shadow: bool) -> Part:
        """One thing with its foot at a pixel, `unit` pixels to its unit."""
        half, tall = REACH.get(name, (0.7, 1.1))
        layer = Layer(
            self.size,
            (
                foot[0] - half * unit,
                foot[1] - tall * unit,
                foot[0] + half * unit,
                foot[1] + 0.05 * unit,
            ),
            self.scale,
        )
        flip = self.chance.random() < 0.5 and name not in ("stop sign", "clock")
        DRAWINGS[name](Pen(layer, foot, unit, flip=flip), self.chance)
        part = Part(name, layer, -foot[1], is_thing=True)
        if shadow:
            part.shadow = Shadow(
                (foot[0], foot[1]),
                (0.62 * half * unit, 0.07 * unit),
                90 + 180 * self.light.shadow,
                0.04 * unit + 0.5,
            )
        return part

    def put(
        self,
        name: str,
        xs: tuple[float, float],
        ys: tuple[float, float],
        sizes: tuple[float, float],
        *,
        chance: float = 1.0,
        shadow: bool = True,
        overlap: float = 0.3,
    ) -> None:
        """Places a thing if it finds room.

        Args:
            name: of the category.
            xs, ys: range of its foot, as shares of W and H; a larger y is nearer, and larger.
            sizes: pixels to its unit at both ends of `ys`, as shares of the picture's shorter side.
            chance: of being there at all.
        """
        if self.chance.random() >= chance:
            return
        for _ in range(6):
            near = self.chance.random()
            unit = self.side * (sizes[0] + (sizes[1] - sizes[0]) * near)
            foot = (
                self.size[1] * self.chance.uniform(*xs),
                self.size[0] * (ys[0] + (ys[1] - ys[0]) * near),
            )
            part = self.draw(name, foot, unit, shadow=shadow)
            if self.room.claim([part], overlap):
                self.things.append(part)
                return

    def crowd(self, name: str, center: Point, unit: float, count: int, spread: float) -> None:
        """Many of a kind in one region, which COCO marks iscrowd."""
        members = [
            self.draw(
                name,
                (
                    center[0] + spread * unit * (number - count / 2),
                    center[1] + self.chance.uniform(-0.06, 0.06) * unit,
                ),
                unit * self.chance.uniform(0.9, 1.1),
                shadow=False,
            )
            for number in range(count)
        ]
        camera = Camera(self.size, self.scale, 1.0, (0.0, 0.0), 1.0)
        group = merge_crowd(camera, name, members)
        group.depth = -center[1]
        if self.room.claim([group], 0.1):
            self.things.append(group)

    def void(self, foot: Point, points: Sequence[Point], unit: float, color: Color) -> None:
        """Something without a category: a polygon in its own frame."""
        placed = [(foot[0] + x * unit, foot[1] - y * unit) for x, y in points]
        xs, ys = [p[0] for p in placed], [p[1] for p in placed]
        layer = Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)
        layer.polygon(placed, color)
        middle = (sum(xs) / len(xs), sum(ys) / len(ys))
        inner = [
            (middle[0] + 0.7 * (x - middle[0]), middle[1] + 0.7 * (y - middle[1]))
            for x, y in placed
        ]
        layer.polygon(inner, brighten(color, 1.25))
        part = Part(NO_CATEGORY, layer, -foot[1])
        if self.room.claim([part], 0.1):
            self.things.append(part)

    def finish(self) -> list[Part]:
        """All parts in painter's order, with outlines."""
        self.things.sort(key=lambda part: -part.depth)
        area = 0.0014 * self.size[0] * self.size[1]
        return settle(
            self.backdrop + self.things,
            self.size,
            least_area=area,
            least_share=0.4,
            void=NO_CATEGORY,
        )


def _plant_tree(place: _Place, x: float, y: float) -> None:
    """A tree of the backdrop with its foot at (x, y)."""
    chance = place.chance
    tall = place.side * chance.uniform(0.42, 0.6)
    layer = Layer(place.size, (x - 0.5 * tall, y - 1.2 * tall, x + 0.5 * tall, y), place.scale)
    layer.polygon(
        [
            (x - 0.05 * tall, y),
            (x - 0.03 * tall, y - 0.5 * tall),
            (x + 0.03 * tall, y - 0.5 * tall),
            (x + 0.05 * tall, y),
        ],
        plants.BARK,
    )
    plants.draw_crown(
        layer,
        chance,
        center=(x, y - 0.64 * tall),
        radii=(0.36 * tall, 0.38 * tall),
        green=chance.choice(plants.GREENS),
        sun_side=place.light.sun_side,
    )
    place.backdrop.append(Part("tree-merged", layer, 1e6))


INDOORS = Light(
    ((200, 196, 188), (220, 214, 204)),
    ((255, 255, 255), 0.0),
    (220, 214, 204),
    (1.02, 1.0, 0.96),
    0.3,
    1,
)


def _paper_wall(place: _Place, low: float) -> None:
    """A wallpapered wall down to `low`."""
    height, width = place.size
    paper = place.chance.choice(((206, 214, 196), (222, 206, 196), (196, 206, 220)))
    layer = place.sheet(
        "wall-other-merged", [(-1, -1), (-1, height), (width + 1, height), (width + 1, -1)], paper
    )
    stripe = 0.1 * place.side
    x = 0.0
    while x < width:
        layer.polygon(rectangle(x, -1, x + stripe / 2, low), brighten(paper, 0.955), solid=False)
        x += stripe
    layer.polygon(
        rectangle(-1, low - 0.035 * height, width + 1, low), brighten(paper, 1.15), solid=False
    )


def compose_table(chance: random.Random, size: tuple[int, int], scale: int) -> _Place:
    """Food and dishes on a table before a wall."""
    place = _Place(chance, size, scale, INDOORS)
    height, width = size
    edge = height * chance.uniform(0.42, 0.5)
    _paper_wall(place, edge)
    wood = chance.choice(((150, 96, 58), (168, 112, 70)))
    table = place.band("table-merged", edge, wood)
    place.gradient(table, brighten(wood, 1.15), brighten(wood, 0.9))
    for k in range(-8, 20):
        x = width * (k + 0.5) / 12
        table.line(
            [(x, edge), (width / 2 + (x - width / 2) * 1.9, height)],
            0.8,
            brighten(wood, 0.72),
            solid=False,
        )
    place.put("clock", (0.12, 0.88), (0.3, 0.38), (0.18, 0.26), chance=0.6, shadow=False)
    if chance.random() < 0.5:
        foot = (width * chance.uniform(0.15, 0.85), height * 0.34)
        place.void(foot, rectangle(-0.5, 0, 0.5, 0.9), 0.24 * place.side, (110, 84, 60))
    place.put("bottle", (0.1, 0.9), (0.6, 0.72), (0.42, 0.55), chance=0.8)
    place.put("bottle", (0.1, 0.9), (0.6, 0.7), (0.4, 0.5), chance=0.3)
    place.put("pizza", (0.25, 0.75), (0.8, 0.93), (0.22, 0.3), chance=0.75, overlap=0.2)
    for _ in range(chance.choice((1, 1, 2))):
        place.put("cup", (0.1, 0.9), (0.66, 0.94), (0.15, 0.22))
    if chance.random() < 0.25:
        foot = (width * chance.uniform(0.2, 0.8), height * chance.uniform(0.62, 0.9))
        place.crowd("apple", foot, 0.13 * place.side, 5, 0.62)
    for _ in range(chance.choice((1, 2))):
        place.put("apple", (0.08, 0.92), (0.66, 0.95), (0.12, 0.18))
    for _ in range(chance.choice((0, 1, 2))):
        place.put("orange", (0.08, 0.92), (0.66, 0.95), (0.12, 0.18))
    place.put("banana", (0.15, 0.85), (0.68, 0.95), (0.14, 0.2), chance=0.7)
    return place


def compose_living_room(chance: random.Random, size: tuple[int, int], scale: int) -> _Place:
    """Furniture on a wooden floor."""
    place = _Place(chance, size, scale, INDOORS)
    height, width = size
    edge = height * chance.uniform(0.58, 0.66)
    _paper_wall(place, edge)
    wood = chance.choice(((196, 148, 92), (184, 134, 84)))
    floor = place.band("floor-wood", edge, wood)
    for k in range(-14, 34):
        x = width * (k + 0.5) / 20
        floor.line(
            [(x, edge), (width / 2 + (x - width / 2) * 2.2, height)],
            0.8,
            brighten(wood, 0.76),
            solid=False,
        )
    place.put("clock", (0.12, 0.88), (0.22, 0.32), (0.15, 0.22), chance=0.6, shadow=False)
    if chance.random() < 0.5:
        foot = (width * chance.uniform(0.15, 0.85), height * 0.36)
        place.void(foot, rectangle(-0.6, 0, 0.6, 0.8), 0.26 * place.side, (128, 96, 120))
    place.put("couch", (0.25, 0.75), (0.74, 0.8), (0.32, 0.4), chance=0.75)
    place.put("tv", (0.2, 0.8), (0.66, 0.72), (0.28, 0.36), chance=0.6, overlap=0.15)
    place.put("potted plant", (0.08, 0.92), (0.72, 0.86), (0.36, 0.48), chance=0.7)
    for _ in range(chance.choice((0, 1, 1, 2))):
        place.put("chair", (0.1, 0.9), (0.8, 0.95), (0.4, 0.5))
    place.put("cat", (0.1, 0.9), (0.84, 0.96), (0.24, 0.32), chance=0.65)
    place.put("person", (0.1, 0.9), (0.82, 0.95), (0.55, 0.66), chance=0.5)
    place.put("sports ball", (0.1, 0.9), (0.86, 0.96), (0.1, 0.14), chance=0.3)
    return place


def _daylight(chance: random.Random) -> Light:
    """Weather for the open air."""
    weather = WEATHERS[chance.choice(("noon", "noon", "morning", "golden", "overcast"))]
    return dataclasses.replace(weather, sun_side=chance.choice((-1, 1)))


def compose_beach(chance: random.Random, size: tuple[int, int], scale: int) -> _Place:
    """Sky, sea and sand."""
    place = _Place(chance, size, scale, _daylight(chance))
    height, width = size
    horizon = height * chance.uniform(0.34, 0.44)
    shore = height * chance.uniform(0.55, 0.64)
    place.sky(horizon)
    sea = place.band("sea", horizon, (40, 120, 160))
    place.gradient(sea, (36, 96, 156), (70, 176, 188))
    for _ in range(60):
        y = horizon + chance.random() ** 1.5 * (shore - horizon)
        x = chance.random() * width
        long = (0.02 + 0.06 * (y - horizon) / height) * width
        sea.ellipse((x, y), (long, max(long * 0.06, 0.4)), (196, 230, 236), alpha=170, solid=False)
    sand = place.band("sand", shore, (232, 206, 150), swell=0.05 * height)
    place.speckle(sand, (226, 198, 142), 220, stretch=2.4, size=0.008 * place.side)
    place.put("boat", (0.1, 0.9), (0.42, 0.5), (0.16, 0.26), chance=0.9, shadow=False)
    place.put("boat", (0.1, 0.9), (0.42, 0.48), (0.14, 0.2), chance=0.35, shadow=False)
    place.put("kite", (0.1, 0.9), (0.24, 0.32), (0.16, 0.24), chance=0.55, shadow=False)
    place.put("bird", (0.1, 0.9), (0.12, 0.26), (0.07, 0.12), chance=0.6, shadow=False)
    if chance.random() < 0.25:
        foot = (width * chance.uniform(0.2, 0.8), shore + 0.03 * height)
        place.crowd("person", foot, 0.2 * place.side, 7, 0.3)
    place.put("umbrella", (0.1, 0.9), (0.74, 0.92), (0.36, 0.46), chance=0.75)
    place.put("surfboard", (0.05, 0.95), (0.72, 0.86), (0.34, 0.42), chance=0.45)
    for _ in range(chance.choice((1, 2, 2))):
        place.put("person", (0.06, 0.94), (0.72, 0.95), (0.34, 0.5))
    place.put("dog", (0.15, 0.85), (0.78, 0.94), (0.15, 0.2), chance=0.5)
    place.put("sports ball", (0.1, 0.9), (0.8, 0.96), (0.1, 0.15), chance=0.55)
    if chance.random() < 0.4:
        foot = (width * chance.uniform(0.1, 0.9), height * chance.uniform(0.8, 0.95))
        place.void(
            foot,
            [(-0.6, 0), (-0.4, 0.5), (0, 0.75), (0.4, 0.5), (0.6, 0)],
            0.14 * place.side,
            (202, 168, 112),
        )
    return place


def compose_meadow(chance: random.Random, size: tuple[int, int], scale: int) -> _Place:
    """Mountains, a wood, grass."""
    place = _Place(chance, size, scale, _daylight(chance))
    height, width = size
    horizon = height * chance.uniform(0.42, 0.5)
    place.sky(horizon)
    if chance.random() < 0.75:
        peaks: list[Point] = [(-0.05 * width, horizon)]
        x = -0.05
        while x < 1.0:
            x += chance.uniform(0.12, 0.22)
            peaks.append((x * width, horizon - height * chance.uniform(0.16, 0.28)))
            x += chance.uniform(0.1, 0.16)
            peaks.append((x * width, horizon - height * chance.uniform(0.05, 0.1)))
        rock = chance.choice(((122, 118, 148), (112, 116, 140)))
        base = [(1.2 * width, horizon + 4), (-0.1 * width, horizon + 4)]
        hills = place.sheet("mountain-merged", [*peaks, *base], rock)
        for number in range(1, len(peaks) - 1, 2):
            (px, py), (nx, ny) = peaks[number], peaks[number + 1]
            hills.polygon(
                [(px, py), (nx, ny), (px + 0.02 * width, horizon)], brighten(rock, 0.8), solid=False
            )
            hills.polygon(
                [
                    (px, py),
                    (px + 0.3 * (nx - px), py + 0.3 * (ny - py)),
                    (px - 0.02 * width, py + 0.06 * height),
                ],
                (240, 244, 250),
                solid=False,
            )
    grass = chance.choice(((126, 176, 70), (138, 184, 76)))
    meadow = place.band("grass-merged", horizon, grass, swell=0.03 * height)
    place.speckle(meadow, grass, 260, stretch=2.0, size=0.009 * place.side)
    for _ in range(chance.choice((1, 2, 3))):
        _plant_tree(
            place, width * chance.uniform(0.0, 1.0), horizon + height * chance.uniform(0.02, 0.1)
        )
    if chance.random() < 0.3:
        foot = (width * chance.uniform(0.2, 0.8), horizon + 0.12 * height)
        place.crowd("sheep", foot, 0.13 * place.side, 6, 0.75)
    place.put("kite", (0.1, 0.9), (0.24, 0.34), (0.16, 0.24), chance=0.4, shadow=False)
    place.put("bird", (0.1, 0.9), (0.12, 0.26), (0.07, 0.12), chance=0.4, shadow=False)
    for _ in range(chance.choice((1, 2, 3))):
        place.put("sheep", (0.1, 0.9), (0.66, 0.95), (0.19, 0.32))
    for _ in range(chance.choice((0, 1, 1))):
        place.put("person", (0.08, 0.92), (0.7, 0.95), (0.36, 0.54))
    place.put("dog", (0.12, 0.88), (0.72, 0.95), (0.16, 0.24), chance=0.6)
    place.put("sports ball", (0.1, 0.9), (0.78, 0.96), (0.09, 0.13), chance=0.35)
    return place


def compose_corner(chance: random.Random, size: tuple[int, int], scale: int) -> _Place:
    """Houses across a road."""
    place = _Place(chance, size, scale, _daylight(chance))
    height, width = size
    kerb = height * chance.uniform(0.56, 0.62)
    road = kerb + 0.07 * height
    place.sky(kerb)
    x = -0.1 * width * chance.random()
    while x < width:
        wide = place.side * chance.uniform(0.36, 0.6)
        _draw_facade(place, (x, x + wide), kerb - height * chance.uniform(0.3, 0.48), kerb + 2)
        x += wide
        if chance.random() < 0.25:
            x += 0.3 * place.side
    slab = (206, 190, 184)
    pavement = place.band("pavement-merged", kerb, slab)
    for k in range(30):
        place_x = width * k / 15 - width / 2
        pavement.line(
            [(place_x, road), (place_x + 0.1 * width, kerb)], 0.7, brighten(slab, 0.85), solid=False
        )
    asphalt = place.band("road", road, (92, 92, 102))
    place.gradient(asphalt, (104, 104, 112), (80, 80, 90))
    for k in range(-1, 8):
        left = (k + 0.3) * 0.2 * width
        y = road + 0.45 * (height - road)
        asphalt.polygon(
            [
                (left, y),
                (left + 0.02 * width, y - 0.012 * height),
                (left + 0.12 * width, y - 0.012 * height),
                (left + 0.1 * width, y),
            ],
            (230, 230, 224),
            solid=False,
        )
    for _ in range(chance.choice((0, 1, 1, 2))):
        _plant_tree(place, width * chance.random(), road - 0.01 * height)
    for _ in range(chance.choice((1, 1, 2))):
        place.put("car", (0.1, 0.9), (0.76, 0.92), (0.21, 0.3))
    place.put("stop sign", (0.1, 0.9), (0.66, 0.72), (0.19, 0.24), chance=0.6, overlap=0.15)
    for _ in range(chance.choice((0, 1, 2))):
        place.put("person", (0.06, 0.94), (0.65, 0.7), (0.3, 0.36))
    place.put("person", (0.06, 0.94), (0.9, 0.97), (0.44, 0.52), chance=0.3)
    place.put("bicycle", (0.12, 0.88), (0.68, 0.94), (0.22, 0.32), chance=0.6)
    place.put("dog", (0.1, 0.9), (0.68, 0.95), (0.14, 0.22), chance=0.35)
    if chance.random() < 0.4:
        foot = (width * chance.uniform(0.1, 0.9), road)
        place.void(foot, rectangle(-0.3, 0, 0.3, 1), 0.16 * place.side, (70, 96, 88))
    return place


def _draw_facade(place: _Place, xs: tuple[float, float], top: float, low: float) -> None:
    """A house seen from the front."""
    chance, (left, right) = place.chance, xs
    plaster, tiles = chance.choice(PLASTERS), chance.choice(ROOFS)
    eaves = top + 0.05 * place.side
    layer = place.sheet(
        "building-other-merged",
        [
            (left, low),
            (left, eaves),
            (left + 0.06 * place.side, top),
            (right - 0.06 * place.side, top),
            (right, eaves),
            (right, low),
        ],
        plaster,
    )
    layer.polygon(
        [
            (left, eaves),
            (left + 0.06 * place.side, top),
            (right - 0.06 * place.side, top),
            (right, eaves),
        ],
        tiles,
    )
    columns = max(int((right - left) / (0.14 * place.side)), 2)
    rows = max(int((low - eaves) / (0.15 * place.side)), 1)
    for column in range(columns):
        for row in range(rows):
            x = left + (right - left) * (column + 0.25) / columns
            wide = (right - left) / columns * 0.5
            y = eaves + (low - eaves) * (row + 0.2) / rows
            tall = (low - eaves) / rows * 0.62
            if row == rows - 1 and column == columns // 2:
                layer.polygon(rectangle(x, y, x + wide, low), brighten(plaster, 0.45))
                continue
            layer.polygon(
                rectangle(x - 1, y - 1, x + wide + 1, y + tall + 1),
                mix(plaster, (255, 255, 255), 0.5),
            )
            layer.polygon(rectangle(x, y, x + wide, y + tall), WINDOW)
            layer.polygon([(x, y), (x + wide * 0.5, y), (x, y + tall * 0.8)], WINDOW_LIGHT)
