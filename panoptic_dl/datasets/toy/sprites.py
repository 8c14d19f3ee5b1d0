"""Sprites: drawings in SVG that stand in space, seen through a camera and rasterized.

`assets/README.md` says how one is drawn. Polygons are filled by OpenCV in fixed-point numbers, and
no float operation here is one that machines round differently: the same drawing has the same
pixels everywhere.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import cv2
import numpy as np

ASSETS = Path(__file__).parent / "assets"
Color = tuple[int, int, int]
_PASSED_ON = {"fill", "stroke", "stroke-width", "class", "data-plane", "data-shade", "data-decal"}

# Trigonometric functions differ between machines in their last bit: rounded, they do not.
_CIRCLE = np.array(
    [[round(f(2 * math.pi * k / 28), 9) for f in (math.cos, math.sin)] for k in range(28)]
)
_STEPS = np.arange(1, 9)[:, None] / 8


@dataclass(frozen=True)
class Paint:
    """Polygons of one color.

    Attributes:
        polygons: K of N corners each: float (K, N, 3) in meters in the sprite's own frame, x right,
            y up, z away from us; or, where a camera sees them, (K, N, 2) in pixels, y down.
        color: RGB.
        solid: part of the silhouette.
    """

    polygons: np.ndarray
    color: Color
    solid: bool


@dataclass(frozen=True)
class Camera:
    """A pinhole camera over flat ground.

    Attributes:
        size: (H, W) of the image in pixels.
        focal: focal length in pixels.
        vanish: (x, y) in pixels of the point straight ahead; y is the horizon.
        eye: height over the ground in meters.
        offset: how far right of the middle (x = 0) the camera stands, in meters.
        near: what is nearer is cut off, in meters.
    """

    size: tuple[int, int]
    focal: float
    vanish: tuple[float, float]
    eye: float
    offset: float
    near: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """Meters (..., 3), none nearer than `near` -> pixels (..., 2)."""
        pixels = np.empty((*points.shape[:-1], 2))
        share = self.focal / points[..., 2]
        pixels[..., 0] = self.vanish[0] + share * (points[..., 0] - self.offset)
        pixels[..., 1] = self.vanish[1] + share * (self.eye - points[..., 1])
        return pixels

    def see(self, paints: list[Paint], place: np.ndarray, scale: np.ndarray) -> list[Paint]:
        """What stands at a place (3,) in meters, `scale` (3,) times larger, in pixels."""
        seen = [self.project(self._cut_near(paint.polygons * scale + place)) for paint in paints]
        pairs = zip(paints, seen, strict=True)
        return [replace(paint, polygons=polygons) for paint, polygons in pairs if len(polygons)]

    def _cut_near(self, polygons: np.ndarray) -> np.ndarray:
        """What of polygons (K, N, 3) is not too near: (K, N, 3), of other K and N."""
        if polygons[..., 2].min() >= self.near:
            return polygons
        kept = []
        for polygon in polygons:
            far = polygon[:, 2] >= self.near
            if far.all():
                kept.append(polygon)
            elif far.any():
                corners = []
                for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                    if a[2] >= self.near:
                        corners.append(a)
                    if (a[2] >= self.near) != (b[2] >= self.near):
                        corners.append(a + (b - a) * ((self.near - a[2]) / (b[2] - a[2])))
                kept.append(np.array(corners))
        return _stack(kept)


def _stack(polygons: list[np.ndarray]) -> np.ndarray:
    """(K, N, D) of polygons (N, D), the shorter of which repeat their last corner."""
    if not polygons:
        return np.zeros((0, 3, 3))
    longest = max(len(polygon) for polygon in polygons)
    fillers = (np.repeat(polygon[-1:], longest - len(polygon), axis=0) for polygon in polygons)
    return np.stack([np.concatenate(pair) for pair in zip(polygons, fillers, strict=True)])


def fill(
    image: np.ndarray, paint: Paint, color: Sequence[int], *, scale: int, origin: tuple[int, int]
) -> None:
    """Paints onto uint8 (H, W, 3) or (H, W) whose corner lies at `origin` (x, y) of the camera's
    picture, and `scale` pixels of which make one of it."""
    # OpenCV counts from the pixel's center, in sixteenths.
    fixed = np.rint(((paint.polygons - origin) * scale - 0.5) * 16).astype(np.int32)
    for polygon in fixed:
        cv2.fillPoly(image, [polygon], color, shift=4)


Gate = tuple[int, float, int]


@dataclass
class _Stencil:
    """Polygons of a sprite before chance and light."""

    points: np.ndarray  # float (K, N, 3) in meters, in the sprite's own frame
    paint: tuple[str, float, str, bool]  # color or palette, factor on it, plane, whether solid
    # Choices it depends on: (which, of how many or with what probability, option).
    gates: tuple[Gate, ...]
    chance: float  # of each of the polygons


@cache
def read_sprite(name: str) -> tuple[dict[str, str], list[tuple[str, list[_Stencil]]]]:
    """The attributes of `assets/<name>.svg`, and its parts: label and stencils."""
    root, parts = ElementTree.parse(ASSETS / f"{name}.svg").getroot(), []
    for group in root:
        stencils: list[_Stencil] = []
        for new in _read_shapes(group, {"data-plane": "front 0"}, np.zeros((1, 2)), ()):
            last = stencils[-1] if stencils else new
            same = (last.paint, last.gates, last.chance, new.chance)
            if stencils and same == (new.paint, new.gates, 1, 1):  # fewer are quicker
                last.points = _stack([*last.points, *new.points])
            else:
                stencils.append(new)
        parts.append((group.get("data-label", ""), stencils))
    return dict(root.attrib), parts


@cache
def sprite_box(name: str) -> np.ndarray:
    """The eight corners, float (8, 3) in meters, of the box that a sprite fits into."""
    stencils = [stencil for _, part in read_sprite(name)[1] for stencil in part]
    points = np.concatenate([s.points.reshape(-1, 3) for s in stencils if s.paint[3]])
    return np.array([*itertools.product(*np.stack([points.min(axis=0), points.max(axis=0)]).T)])


def _read_shapes(
    element: Element, above: dict[str, str], offsets: np.ndarray, gates: tuple[Gate, ...]
) -> Iterator[_Stencil]:
    """The stencils of an element that stands at each of the offsets (K, 2)."""
    own = element.attrib
    tag = element.tag.rpartition("}")[2]
    if "data-repeat" in own:
        count, dx, dy = (float(word) for word in own["data-repeat"].split())
        steps = np.arange(count)[:, None] * (dx, dy)
        offsets = (offsets[:, None] + steps[None]).reshape(-1, 2)
    if tag == "g":
        if "data-chance" in own:
            gates = (*gates, (id(element), float(own["data-chance"]), 0))
        style = {**above, **{key: own[key] for key in own.keys() & _PASSED_ON}}
        for number, child in enumerate(element):
            choice = ((id(element), len(element), number),) if "data-choice" in own else ()
            yield from _read_shapes(child, style, offsets, gates + choice)
        return
    style = {**above, **own}
    hollow = style.get("fill") == "none"
    flat = _outlines(tag, own, float(style["stroke-width"]) if hollow else 0.0)
    color = style.get("class") or style["stroke" if hollow else "fill"]
    shade, solid = float(style.get("data-shade", 1)), "data-decal" not in style
    origin, across, down = _read_plane(style["data-plane"])
    chance = float(own.get("data-chance", 1))
    points = _stack([outline + offset for offset in offsets for outline in flat])
    points = (origin + points[..., :1] * across + points[..., 1:] * down) / 100
    yield _Stencil(points, (color, shade, style["data-plane"], solid), gates, chance)


def draw_sprite(name: str, chance: random.Random, palettes: Mapping[str, list[str]], *,
                sun_side: float, along: bool) -> list[tuple[str, list[Paint]]]:  # fmt: skip
    """The parts of a sprite, rear to front, with what is left to chance decided: label and paints.

    Args:
        chance: where chance comes from.
        palettes: colors "#rrggbb" by name.
        sun_side: -1 or 1, where the sun stands, in the sprite's own frame.
        along: turns the front to the left, for what stands along the street at its right.
    """
    colors: dict[str, str] = {}
    passed: dict[int, int] = {}

    def is_open(gate: int, odds: float, option: int) -> bool:
        if gate not in passed:
            passed[gate] = chance.randrange(int(odds)) if odds > 1 else -(chance.random() >= odds)
        return passed[gate] == option

    parts = []
    for label, stencils in read_sprite(name)[1]:
        paints = []
        for stencil in stencils:
            if not all(is_open(*gate) for gate in stencil.gates):
                continue
            color, shade, plane, solid = stencil.paint
            points = stencil.points[..., ::-1] if along else stencil.points
            if stencil.chance < 1:
                points = points[[chance.random() < stencil.chance for _ in points]]
            if not color.startswith("#"):
                if color not in colors:
                    colors[color] = chance.choice(palettes.get(color, [color]))
                color = colors[color]
            if len(points):
                factor = shade * _brightness(plane, sun_side, along)
                paints.append(Paint(points, _shade(color, factor), solid))
        if paints:
            parts.append((label, paints))
    return parts


def _brightness(plane: str, sun_side: float, along: bool) -> float:
    """How much of the sun a plane gets; what faces us gets as much as anything."""
    kind, first = plane.split()[:2]
    if kind in (("front", "lean") if along else ("side",)):
        faces_left = along or float(first) <= 0
        return 1.06 if faces_left == (sun_side < 0) else 0.76
    return {"top": 1.12, "lean": 1.06, "side": 0.95}.get(kind, 1.0)


@lru_cache(maxsize=4096)
def _shade(color: str, factor: float) -> Color:
    """RGB of "#rrggbb" times a factor."""
    red, green, blue = (min(round(int(color[k : k + 2], 16) * factor), 255) for k in (1, 3, 5))
    return red, green, blue


def _read_plane(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin, direction of x and direction of y (down) of a `data-plane`, in cm."""
    kind, *words = text.split()
    n, (x, y, z) = [float(word) for word in words], np.eye(3)
    if kind == "lean":
        return n[0] * y + n[1] * z, x, ((n[0] - n[2]) * y + (n[1] - n[3]) * z) / 100
    normal, across, down = {"front": (z, x, -y), "side": (x, z, -y), "top": (y, x, -z)}[kind]
    return n[0] * normal, across, down


def _outlines(tag: str, values: Mapping[str, str], line: float) -> list[np.ndarray]:
    """The corners, float (N, 2) each, of an SVG shape, or of its stroke of a width."""
    if line:
        return _stroke(_outlines(tag, values, 0.0), line, closed=tag in ("circle", "ellipse"))

    def numbers(*names: str) -> np.ndarray:
        return np.array([float(values.get(name, 0)) for name in names])

    if tag == "path":
        return _read_path(values["d"])
    if tag in ("polygon", "polyline"):
        return [np.array(values["points"].replace(",", " ").split(), float).reshape(-1, 2)]
    if tag == "line":
        return [numbers("x1", "y1", "x2", "y2").reshape(2, 2)]
    if tag in ("circle", "ellipse"):
        return [_CIRCLE * (numbers("rx", "ry") + numbers("r")) + numbers("cx", "cy")]
    if tag == "rect":
        (x, y), (wide, tall), (r,) = numbers("x", "y"), numbers("width", "height"), numbers("rx")
        low, right = y + tall - r, x + wide - r
        centers = [(right, low), (x + r, low), (x + r, y + r), (right, y + r)]
        if not r:
            return [np.array(centers)]
        return [np.concatenate([_CIRCLE[7 * k : 7 * k + 7] * r + c for k, c in enumerate(centers)])]
    raise ValueError(f"a sprite cannot use <{tag}>")


def _stroke(lines: list[np.ndarray], width: float, *, closed: bool) -> list[np.ndarray]:
    """Polygons that cover lines (N, 2) with round joints; of a circle, a ring."""
    if closed:
        loop, away = lines[0][[*range(28), 0]], _CIRCLE[[*range(28), 0]] * (width / 2)
        return [np.concatenate([loop + away, (loop - away)[::-1]])]
    strokes = []
    for points in lines:
        for a, b in itertools.pairwise(points):
            side = (b - a)[::-1] * (-1, 1) * (width / 2 / (math.hypot(*(b - a)) or 1.0))
            strokes.append(np.stack([a + side, b + side, b - side, a - side]))
        strokes += [_CIRCLE[::2] * (width / 2) + point for point in points]
    return strokes


def _read_path(text: str) -> list[np.ndarray]:
    """The subpaths of an SVG path of absolute commands."""
    paths: list[list[np.ndarray]] = []
    for command, words in re.findall(r"([A-Za-z])([^A-Za-z]*)", text):
        ends = np.array(words.replace(",", " ").split(), float).reshape(-1, 2)
        if command == "M":
            paths.append(list(ends))
        elif command == "L":
            paths[-1] += list(ends)
        elif command in "CQ":
            here, t, s = paths[-1][-1], _STEPS, 1 - _STEPS
            if command == "C":
                a, b, end = ends
            else:
                q, end = ends
                a, b = here + (q - here) * 2 / 3, end + (q - end) * 2 / 3
            curve = s * s * s * here + 3 * s * t * (s * a + t * b) + t * t * t * end
            paths[-1] += list(curve)
        elif command != "Z":
            raise ValueError(f"a sprite's path cannot use {command}")
    return [np.array(path) for path in paths]
