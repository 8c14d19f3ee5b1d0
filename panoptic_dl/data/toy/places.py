"""A picture of the toy COCO while it is being put together. Pixels throughout."""

from __future__ import annotations

import random
from collections.abc import Sequence

from PIL import Image

from panoptic_dl.data.toy import ground, plants
from panoptic_dl.data.toy.canvas import Colour, Layer, Pen, Point, brighten, mix
from panoptic_dl.data.toy.placement import Room, merge_crowd
from panoptic_dl.data.toy.scene import Camera, Light, Part, Shadow, settle, wave
from panoptic_dl.data.toy.things import DRAWINGS, REACH

VOID = ""  # the label of what belongs to no category


class Place:
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

    def sheet(self, label: str, points: Sequence[Point], colour: Colour) -> Layer:
        """A large area with a straight or wavy edge."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        layer = Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)
        layer.polygon(points, colour)
        self.backdrop.append(Part(label, layer, 1e6))
        return layer

    def band(self, label: str, top: float, colour: Colour, *, swell: float = 0.0) -> Layer:
        """Everything below `top`, whose edge swells by so many pixels."""
        height, width = self.size
        phases = [self.chance.random() for _ in range(3)]
        edge = [(width * k / 40, top - swell * (1 + wave(k / 40, phases)) / 2) for k in range(41)]
        return self.sheet(label, [(0, height + 1), *edge, (width + 1, height + 1)], colour)

    def gradient(self, layer: Layer, top: Colour, low: Colour) -> None:
        """Recolours a layer from its top to its bottom."""
        rows = layer.y1 - layer.y0
        ramp = bytearray()
        for row in range(rows):
            ramp += bytes(mix(top, low, row / max(rows - 1, 1)))
        column = Image.frombytes("RGB", (1, rows), bytes(ramp))
        layer.colours.paste(column.resize(layer.colours.size, Image.Resampling.BILINEAR), (0, 0))

    def sky(self, horizon: float) -> None:
        """Sky with clouds down to the horizon."""
        camera = Camera(self.size, self.scale, 1.0, (self.size[1] / 2, horizon), 1.0)
        part = ground.draw_sky(camera, self.light, self.chance)
        part.label = "sky-other-merged"
        self.backdrop.append(part)

    def speckle(
        self, layer: Layer, colour: Colour, count: int, *, stretch: float, size: float
    ) -> None:
        """Strews flat specks that grow towards the bottom of a layer."""
        for _ in range(count):
            depth = self.chance.random()
            y = layer.y0 + depth * depth * (layer.y1 - layer.y0)
            x = layer.x0 + self.chance.random() * (layer.x1 - layer.x0)
            radius = size * (0.3 + depth) * self.chance.uniform(0.6, 1.4)
            tone = brighten(colour, self.chance.choice((0.9, 0.95, 1.06, 1.1)))
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

    def crowd(self, name: str, centre: Point, unit: float, count: int, spread: float) -> None:
        """Many of a kind in one region, which COCO marks iscrowd."""
        members = [
            self.draw(
                name,
                (
                    centre[0] + spread * unit * (number - count / 2),
                    centre[1] + self.chance.uniform(-0.06, 0.06) * unit,
                ),
                unit * self.chance.uniform(0.9, 1.1),
                shadow=False,
            )
            for number in range(count)
        ]
        camera = Camera(self.size, self.scale, 1.0, (0.0, 0.0), 1.0)
        group = merge_crowd(camera, name, members)
        group.depth = -centre[1]
        if self.room.claim([group], 0.1):
            self.things.append(group)

    def void(self, foot: Point, points: Sequence[Point], unit: float, colour: Colour) -> None:
        """Something without a category: a polygon in its own frame."""
        placed = [(foot[0] + x * unit, foot[1] - y * unit) for x, y in points]
        xs, ys = [p[0] for p in placed], [p[1] for p in placed]
        layer = Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)
        layer.polygon(placed, colour)
        middle = (sum(xs) / len(xs), sum(ys) / len(ys))
        inner = [
            (middle[0] + 0.7 * (x - middle[0]), middle[1] + 0.7 * (y - middle[1]))
            for x, y in placed
        ]
        layer.polygon(inner, brighten(colour, 1.25))
        part = Part(VOID, layer, -foot[1])
        if self.room.claim([part], 0.1):
            self.things.append(part)

    def finish(self) -> list[Part]:
        """All parts in painter's order, with outlines."""
        self.things.sort(key=lambda part: -part.depth)
        area = 0.0014 * self.size[0] * self.size[1]
        return settle(
            self.backdrop + self.things, self.size, least_area=area, least_share=0.4, void=VOID
        )


def plant_tree(place: Place, x: float, y: float) -> None:
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
        centre=(x, y - 0.64 * tall),
        radii=(0.36 * tall, 0.38 * tall),
        green=chance.choice(plants.GREENS),
        sun_side=place.light.sun_side,
    )
    place.backdrop.append(Part("tree-merged", layer, 1e6))
