"""What a toy picture is made of: a camera, a light, and parts in painter's order.

Keeps the things of a scene from hiding one another too much.

Paints the parts of a scene, and what a camera adds: grain, tint, darker corners, noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from panoptic_dl.datasets.toy.canvas import Canvas, Color, Layer, Point


def sample_random(seed: int, split: str, index: int) -> random.Random:
    """The source of chance of one sample, seeded by text, which Python hashes alike everywhere."""
    return random.Random(f"panoptic-dl toy {seed} {split} {index}")


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over flat ground; X right, Y up, Z ahead, in meters.

    Attributes:
        size: (H, W) of the image in pixels.
        scale: supersampling factor.
        focal: focal length in pixels.
        vanish: (x, y) in pixels where the street vanishes; y is the horizon.
        eye: height of the camera over the ground in meters.
        offset: how far right of the street's middle the camera stands, in meters.
    """

    size: tuple[int, int]
    scale: int
    focal: float
    vanish: Point
    eye: float
    offset: float = 0.0

    def project(self, x: float, y: float, z: float) -> Point:
        """Meters -> image pixels. Depth is held at half a meter or more."""
        z = max(z, 0.5)
        return (
            self.vanish[0] + self.focal * (x - self.offset) / z,
            self.vanish[1] + self.focal * (self.eye - y) / z,
        )

    def pixels(self, meters: float, z: float) -> float:
        """How many pixels a length has at depth z."""
        return self.focal * meters / z

    def layer(self, *points: Point) -> Layer:
        """An empty layer that holds these points."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)


@dataclass(frozen=True)
class Light:
    """Time of day and weather.

    Attributes:
        sky: colors at the top and at the horizon.
        cloud: color and strength (0..1) of the clouds.
        haze: what far things fade into.
        tint: factors on red, green, blue of everything but the sky.
        shadow: strength of shadows, 0..1.
        sun_side: -1 sun on the left, +1 on the right.
    """

    sky: tuple[Color, Color]
    cloud: tuple[Color, float]
    haze: Color
    tint: tuple[float, float, float]
    shadow: float
    sun_side: int

    def haze_on(self, z: np.ndarray) -> np.ndarray:
        """Share of haze, 0..0.7, at depths z in meters (float32).

        No exponential: sums, products and quotients are rounded alike by every machine.
        """
        beyond = np.maximum(z - np.float32(6.0), np.float32(0.0))
        return np.float32(0.7) * beyond / (beyond + np.float32(75.0))

    def haze_at(self, z: float) -> np.ndarray:
        """`haze_on` one depth: float32 (1, 1)."""
        return self.haze_on(np.full((1, 1), z, dtype=np.float32))


WEATHERS: dict[str, Light] = {
    "noon": Light(
        ((62, 124, 204), (196, 220, 240)),
        ((255, 255, 255), 0.9),
        (190, 208, 226),
        (1.03, 1.02, 1.0),
        0.42,
        1,
    ),
    "morning": Light(
        ((104, 150, 206), (232, 226, 216)),
        ((255, 246, 236), 0.75),
        (214, 212, 210),
        (1.0, 1.0, 1.02),
        0.34,
        1,
    ),
    "golden": Light(
        ((92, 124, 182), (252, 208, 150)),
        ((255, 226, 190), 0.8),
        (238, 204, 164),
        (1.05, 0.985, 0.9),
        0.4,
        1,
    ),
    "overcast": Light(
        ((158, 170, 184), (216, 221, 226)),
        ((236, 238, 242), 0.7),
        (200, 206, 212),
        (0.93, 0.96, 1.0),
        0.22,
        1,
    ),
}


@dataclass
class Shadow:
    """A soft ellipse on the ground, in pixels."""

    center: Point
    radii: Point
    alpha: float
    blur: float


@dataclass
class Part:
    """One labeled cut-out of the scene.

    Attributes:
        label: the dataset's own name of the class (or group, or void region).
        layer: what is painted, and where.
        depth: meters from the camera; the painter goes from far to near.
        is_thing: one instance; it is dropped when too little of it stays visible.
        is_crowd: many instances in one region.
        shadow: falls on whatever is behind.
        outlines: polygons in whole pixels, set by `settle`.
        haze: share of haze, 0..1, float32 that broadcasts to (H, W); None for none.
    """

    label: str
    layer: Layer
    depth: float
    is_thing: bool = False
    is_crowd: bool = False
    shadow: Shadow | None = None
    outlines: list[list[tuple[int, int]]] = field(default_factory=list)
    haze: np.ndarray | None = None


def haze_of_wall(camera: Camera, light: Light, x: float) -> np.ndarray:
    """Haze on a wall along the street at lateral position x, by column: float32 (1, W)."""
    across = np.arange(camera.size[1], dtype=np.float32)[None, :] + np.float32(0.5)
    across = np.maximum(np.abs(across - np.float32(camera.vanish[0])), np.float32(0.5))
    return light.haze_on(np.float32(camera.focal * abs(x - camera.offset)) / across)


def haze_of_ground(camera: Camera, light: Light) -> np.ndarray:
    """Haze on the ground, by row: float32 (H, 1)."""
    down = np.arange(camera.size[0], dtype=np.float32)[:, None] + np.float32(0.5)
    down = np.maximum(down - np.float32(camera.vanish[1]), np.float32(0.5))
    return light.haze_on(np.float32(camera.focal * camera.eye) / down)


def settle(
    parts: list[Part], size: tuple[int, int], *, least_area: float, least_share: float, void: str
) -> list[Part]:
    """Traces the outlines, leaves out things hardly seen and gives up the class of stuff slivers.

    Args:
        parts: in painter's order, far to near.
        size: (H, W) in pixels.
        least_area: a thing stays if this many of its pixels are visible, ...
        least_share: ... and this share of its outline's area. Stuff of which less than `least_area`
            is visible in all keeps its place, but is labeled `void`: nobody would annotate it.
        void: label of what has no class.
    Returns:
        The parts that stay, in the same order, each with at least one outline.
    """
    traced = []
    for part in parts:
        single = part.is_thing or part.is_crowd
        if single and not part.layer.keep_largest_part():
            continue
        part.outlines = part.layer.outlines()
        if single:
            part.outlines = part.outlines[:1]
        if part.outlines:
            traced.append(part)
    seen = _count_visible(traced, size)
    kept = []
    for part, visible in zip(traced, seen, strict=True):
        if part.is_thing or part.is_crowd:
            whole = Image.new("L", (size[1], size[0]))
            ImageDraw.Draw(whole).polygon(part.outlines[0], fill=1)
            if visible < max(least_area, least_share * whole.histogram()[1]):
                continue
        kept.append(part)
    seen = _count_visible(kept, size)
    totals: dict[str, int] = {}
    for part, visible in zip(kept, seen, strict=True):
        totals[part.label] = totals.get(part.label, 0) + visible
    for part in kept:
        if not (part.is_thing or part.is_crowd) and totals[part.label] < least_area:
            part.label = void
    return kept


def _count_visible(parts: list[Part], size: tuple[int, int]) -> list[int]:
    """How many pixels of each part no later part covers."""
    order = draw_order(parts, size)
    counts = np.bincount(order.ravel(), minlength=len(parts) + 1)
    return [int(count) for count in counts[1:]]


def draw_order(parts: list[Part], size: tuple[int, int]) -> np.ndarray:
    """Number (1, 2, ...) of the topmost part at each pixel, 0 where there is none: int32 (H, W)."""
    image = Image.new("I", (size[1], size[0]))
    pencil = ImageDraw.Draw(image)
    for number, part in enumerate(parts, start=1):
        for outline in part.outlines:
            pencil.polygon(outline, fill=number)
    return np.asarray(image, dtype=np.int32)


def wave(position: float, phases: list[float]) -> float:
    """A smooth periodic bump in about -1..1; position 0..1 goes once round."""
    total = 0.0
    for octave, phase in enumerate(phases, start=1):
        total += math.sin(2 * math.pi * (position * (octave + 1) * 2 + phase)) / octave
    return total / 2


Box = tuple[float, float, float, float]


class Room:
    """The room of a picture that things have taken already.

    Args:
        size: (H, W) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.taken: list[Box] = []

    def claim(self, parts: list[Part], overlap: float) -> bool:
        """Takes the room of parts that belong together.

        Args:
            parts: nothing is claimed for an empty list or a part without coverage.
            overlap: share of the smaller box that another's box may cover, 0..1.
        Returns:
            Whether there was room: the parts show and cover no other's box too much.
        """
        boxes = []
        for part in parts:
            box = part.layer.mask.getbbox()
            if box is None:
                return False
            s, layer = part.layer.scale, part.layer
            boxes.append(
                (
                    layer.x0 + box[0] / s,
                    layer.y0 + box[1] / s,
                    layer.x0 + box[2] / s,
                    layer.y0 + box[3] / s,
                )
            )
        if not boxes:
            return False
        left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
        right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
        union = (left, top, right, bottom)
        if right - left < 0.02 * self.size[0] or left >= self.size[1] - 3 or right <= 3:
            return False
        for other in self.taken:
            across = min(right, other[2]) - max(left, other[0])
            down = min(bottom, other[3]) - max(top, other[1])
            hidden = max(across, 0.0) * max(down, 0.0)
            if hidden > overlap * min(_area_of(union), _area_of(other)):
                return False
        self.taken.append(union)
        return True


def _area_of(box: Box) -> float:
    """Area of (x0, y0, x1, y1)."""
    return (box[2] - box[0]) * (box[3] - box[1])


def merge_crowd(camera: Camera, label: str, members: list[Part]) -> Part:
    """Makes one crowd region ("cargroup", "persongroup") of things, drawn far to near."""
    members = sorted(members, key=lambda part: -part.depth)
    layers = [part.layer for part in members]
    group = Layer(
        camera.size,
        (
            min(layer.x0 for layer in layers) + 2,
            min(layer.y0 for layer in layers) + 2,
            max(layer.x1 for layer in layers) - 3,
            max(layer.y1 for layer in layers) - 3,
        ),
        camera.scale,
    )
    for layer in layers:
        place = ((layer.x0 - group.x0) * group.scale, (layer.y0 - group.y0) * group.scale)
        group.colors.paste(layer.colors, place, layer.mask)
        group.mask.paste(255, place, layer.mask)
    return Part(label, group, min(p.depth for p in members), is_crowd=True)


# Strength of the texture by class: (fine grain, blotches), as shares of the color.
STREET_TEXTURES: Mapping[str, tuple[float, float]] = {
    "road": (0.055, 0.05),
    "sidewalk": (0.035, 0.045),
    "terrain": (0.12, 0.14),
    "vegetation": (0.15, 0.1),
    "building": (0.04, 0.04),
    "wall": (0.06, 0.06),
    "fence": (0.05, 0.05),
    "sky": (0.0, 0.0),
}


def render_scene(
    parts: list[Part],
    chance: random.Random,
    *,
    size: tuple[int, int],
    scale: int,
    textures: Mapping[str, tuple[float, float]],
    haze: Color,
    tint: tuple[float, float, float],
    untinted: str,
    noise: float = 2.4,
) -> Image.Image:
    """The photograph of a scene.

    Args:
        parts: in painter's order, with outlines.
        size: (H, W) in pixels.
        textures: (fine grain, blotches) by label; labels that are missing get little.
        haze: what the parts fade into, as much as their `haze` says.
        tint: factors on red, green, blue, applied to everything but the label `untinted`.
        noise: standard deviation of the sensor noise in gray levels.
    Returns:
        RGB, (W, H). Only sums and products of floats are used, which every machine rounds alike.
    """
    canvas = Canvas(size, scale)
    for part in parts:
        if part.shadow is not None:
            dark = part.shadow
            alpha = min(round(dark.alpha), 200)
            canvas.shadow(dark.center, dark.radii, alpha, blur=max(dark.blur, 0.5))
        canvas.stick(part.layer)
    picture = np.asarray(canvas.finish(), dtype=np.float32)

    order = draw_order(parts, size)
    strengths = np.zeros((len(parts) + 1, 2), dtype=np.float32)
    tints = np.ones((len(parts) + 1, 3), dtype=np.float32)
    for number, part in enumerate(parts, start=1):
        strengths[number] = textures.get(part.label, (0.03, 0.02))
        if part.label != untinted:
            tints[number] = tint
    picture += (np.array(haze, dtype=np.float32) - picture) * _spread_haze(parts, order)[..., None]

    height, width = size
    cell = max(height // 48, 2)
    grain = _noise_field(chance, size, 1)
    blotches = _noise_field(chance, size, cell)
    strength = strengths[order]
    factor = 1.0 + strength[..., 0] * grain + strength[..., 1] * blotches
    factor = factor * _darken_corners(size)
    picture = picture * factor[..., None] * tints[order]

    dice = np.frombuffer(chance.randbytes(height * width * 6), dtype=np.uint8)
    pairs = dice.reshape(height, width, 3, 2).astype(np.float32)
    # The sum of two uniform bytes has standard deviation 104.5.
    picture = picture + (pairs[..., 0] + pairs[..., 1] - 255.0) * np.float32(noise / 104.5)
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def _spread_haze(parts: list[Part], order: np.ndarray) -> np.ndarray:
    """Share of haze at each pixel: float32 (H, W)."""
    share = np.zeros(order.shape, dtype=np.float32)
    for number, part in enumerate(parts, start=1):
        if part.haze is not None:
            np.copyto(share, np.broadcast_to(part.haze, order.shape), where=order == number)
    return share


def _noise_field(chance: random.Random, size: tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise in -1..1 whose bumps are `cell` pixels wide: float32 (H, W)."""
    rows, columns = -(-size[0] // cell) + 1, -(-size[1] // cell) + 1
    image = Image.frombytes("L", (columns, rows), chance.randbytes(rows * columns))
    if cell > 1:
        image = image.resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)
    field = np.asarray(image, dtype=np.float32)[: size[0], : size[1]]
    return (field - 127.5) / np.float32(127.5)


def _darken_corners(size: tuple[int, int]) -> np.ndarray:
    """A lens's fall-off to 0.88 in the corners: float32 (H, W)."""
    rows = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return 1.0 - np.float32(0.06) * (rows * rows + columns * columns)
