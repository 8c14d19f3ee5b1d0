"""What a toy picture is made of: a camera, a light, and parts in painter's order."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from panoptic_dl.data.toy.canvas import Colour, Layer, Point


def sample_random(seed: int, split: str, index: int) -> random.Random:
    """The source of chance of one sample, seeded by text, which Python hashes alike everywhere."""
    return random.Random(f"panoptic-dl toy {seed} {split} {index}")


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over flat ground; X right, Y up, Z ahead, in metres.

    Attributes:
        size: (H, W) of the image in pixels.
        scale: supersampling factor.
        focal: focal length in pixels.
        vanish: (x, y) in pixels where the street vanishes; y is the horizon.
        eye: height of the camera over the ground in metres.
        offset: how far right of the street's middle the camera stands, in metres.
    """

    size: tuple[int, int]
    scale: int
    focal: float
    vanish: Point
    eye: float
    offset: float = 0.0

    def project(self, x: float, y: float, z: float) -> Point:
        """Metres -> image pixels. Depth is held at half a metre or more."""
        z = max(z, 0.5)
        return (
            self.vanish[0] + self.focal * (x - self.offset) / z,
            self.vanish[1] + self.focal * (self.eye - y) / z,
        )

    def pixels(self, metres: float, z: float) -> float:
        """How many pixels a length has at depth z."""
        return self.focal * metres / z

    def layer(self, *points: Point) -> Layer:
        """An empty layer that holds these points."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return Layer(self.size, (min(xs), min(ys), max(xs), max(ys)), self.scale)


@dataclass(frozen=True)
class Light:
    """Time of day and weather.

    Attributes:
        sky: colours at the top and at the horizon.
        cloud: colour and strength (0..1) of the clouds.
        haze: what far things fade into.
        tint: factors on red, green, blue of everything but the sky.
        shadow: strength of shadows, 0..1.
        sun_side: -1 sun on the left, +1 on the right.
    """

    sky: tuple[Colour, Colour]
    cloud: tuple[Colour, float]
    haze: Colour
    tint: tuple[float, float, float]
    shadow: float
    sun_side: int

    def haze_on(self, z: np.ndarray) -> np.ndarray:
        """Share of haze, 0..0.7, at depths z in metres (float32).

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

    centre: Point
    radii: Point
    alpha: float
    blur: float


@dataclass
class Part:
    """One labelled cut-out of the scene.

    Attributes:
        label: the dataset's own name of the class (or group, or void region).
        layer: what is painted, and where.
        depth: metres from the camera; the painter goes from far to near.
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
            is visible in all keeps its place, but is labelled `void`: nobody would annotate it.
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
    seen = count_visible(traced, size)
    kept = []
    for part, visible in zip(traced, seen, strict=True):
        if part.is_thing or part.is_crowd:
            whole = Image.new("L", (size[1], size[0]))
            ImageDraw.Draw(whole).polygon(part.outlines[0], fill=1)
            if visible < max(least_area, least_share * whole.histogram()[1]):
                continue
        kept.append(part)
    seen = count_visible(kept, size)
    totals: dict[str, int] = {}
    for part, visible in zip(kept, seen, strict=True):
        totals[part.label] = totals.get(part.label, 0) + visible
    for part in kept:
        if not (part.is_thing or part.is_crowd) and totals[part.label] < least_area:
            part.label = void
    return kept


def count_visible(parts: list[Part], size: tuple[int, int]) -> list[int]:
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
