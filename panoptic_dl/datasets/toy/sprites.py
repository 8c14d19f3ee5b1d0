"""Sprites: drawings in SVG that stand in space, seen through a camera and rasterized.

A sprite is one file of `assets/`, in centimeters, with its origin at the foot; any vector editor
shows it. Its top-level groups name their class in `data-label`. Of SVG it may use `g`, `path` (M L
H V C Q Z), `rect`, `circle`, `ellipse`, `polygon`, `polyline`, `line`; fill, fill-opacity, stroke,
stroke-width and class, which groups pass on. The rest is said by attributes of our own:

* `class="coat"`: the color is drawn by chance from the palette of that name in `layouts.yaml`.
* `data-shade="0.8"`: a factor on the color.
* `data-plane`: where the drawing lies in space, in cm; a sprite turns its side to the camera.
  `front Z`, `side X`, `top Y`: upright and facing us, upright along the street, flat;
  `lean Y0 Z0 Y1 Z1`, `slope X0 Y0 X1 Y1`: y of 0 to -100 leads from the first point to the second.
* `data-repeat="N DX DY"`: N times, each DX, DY further; may be nested.
* `data-chance="0.5"`: there with this probability, `data-choice=""`: one of its children is.
* `data-decal=""`: lies within the silhouette.
* on the whole drawing, `data-round="0.3"`: how dark its far side from the sun is, and
  `data-length="900"`: how far along the street the next one of a row stands.

Polygons are filled by OpenCV in fixed-point numbers, and no float operation here is one that
machines round differently: the same drawing has the same pixels everywhere.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

ASSETS = Path(__file__).parent / "assets"
Color = tuple[int, int, int]
_PASSED_ON = {"fill", "stroke", "stroke-width", "fill-opacity", "class",
              "data-plane", "data-shade", "data-decal"}  # fmt: skip

# Trigonometric functions differ between machines in their last bit: rounded, they do not.
_CIRCLE = np.array(
    [[round(f(2 * math.pi * k / 28), 9) for f in (math.cos, math.sin)] for k in range(28)]
)
_STEPS = np.arange(1, 9)[:, None] / 8


@dataclass(frozen=True)
class Shape:
    """Polygons of one color in space.

    Attributes:
        points: float (K, N, 3), K polygons of N corners in the sprite's own frame in meters: x
            right, y up, z away from the camera.
        color: RGB.
        alpha: opacity, 0..1.
        solid: part of the silhouette.
    """

    points: np.ndarray
    color: Color
    alpha: float
    solid: bool


@dataclass(frozen=True)
class Paint:
    """What a camera sees of a `Shape`: polygons float (K, N, 2) in pixels, x right and y down."""

    polygons: np.ndarray
    color: Color
    alpha: float
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

    def see(self, shapes: list[Shape], place: np.ndarray, scale: np.ndarray) -> list[Paint]:
        """Shapes at a place (3,) in meters, `scale` (3,) times larger."""
        if not shapes:
            return []
        joint = np.concatenate([shape.points.reshape(-1, 3) for shape in shapes]) * scale + place
        if joint[:, 2].min() >= self.near:
            ends = np.cumsum([shape.points.size // 3 for shape in shapes])
            pixels = np.split(self.project(joint), ends[:-1])
            seen = [p.reshape(*s.points.shape[:2], 2) for p, s in zip(pixels, shapes, strict=True)]
        else:
            seen = [self.project(self._cut_near(s.points * scale + place)) for s in shapes]
        pairs = zip(seen, shapes, strict=True)
        return [Paint(p, s.color, s.alpha, s.solid) for p, s in pairs if len(p)]

    def _cut_near(self, polygons: np.ndarray) -> np.ndarray:
        """What of polygons (K, N, 3) is not too near: (K, N, 3), of other K and N."""
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
    """Paints onto uint8 (H, W, 3) or (H, W), `scale` pixels of which make one of the camera.

    Args:
        origin: (x, y) of the image's corner in pixels of the camera.
    """
    # OpenCV counts from the pixel's center, in sixteenths.
    fixed = np.rint(((paint.polygons - origin) * scale - 0.5) * 16).astype(np.int32)
    if paint.alpha == 1:
        for polygon in fixed:
            cv2.fillPoly(image, [polygon], color, shift=4)
    elif len(fixed):
        corners = fixed.reshape(-1, 2) >> 4
        height, width = image.shape[:2]
        x0, y0 = np.clip(corners.min(axis=0), 0, (width, height))
        x1, y1 = np.clip(corners.max(axis=0) + 2, 0, (width, height))
        if x1 > x0 and y1 > y0:
            mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
            shift = np.array([x0, y0], np.int32) << 4
            for polygon in fixed:
                cv2.fillPoly(mask, [polygon - shift], [1], shift=4)
            region, inside = image[y0:y1, x0:x1], mask > 0
            share = round(256 * paint.alpha)
            below = region[inside].astype(np.int32)
            region[inside] = (below * (256 - share) + np.array(color) * share) >> 8


@dataclass
class _Stencil:
    """Polygons of a sprite before chance and light.

    Attributes:
        points: float (K, N, 3) in meters, in the sprite's own frame.
        paint: color or palette, factor on it, plane, opacity, whether solid.
        gates: choices it depends on: (which, of how many or with what probability, option).
        chance: probability of each of the polygons.
    """

    points: np.ndarray
    paint: tuple[str, float, str, float, bool]
    gates: tuple[tuple[int, float, int], ...]
    chance: float


@cache
def read_sprite(name: str) -> tuple[dict[str, str], list[tuple[str, list[_Stencil]]]]:
    """The attributes of `assets/<name>.svg`, and its parts: label and stencils."""
    root = ElementTree.parse(ASSETS / f"{name}.svg").getroot()
    parts: list[tuple[str, list[_Stencil]]] = []
    for group in root:
        stencils: list[_Stencil] = []
        _collect(group, {"data-plane": "front 0"}, np.zeros((1, 2)), (), stencils)
        parts.append((group.get("data-label", ""), stencils))
    return dict(root.attrib), parts


def _collect(
    element: ElementTree.Element,
    above: dict[str, str],
    offsets: np.ndarray,
    gates: tuple[tuple[int, float, int], ...],
    stencils: list[_Stencil],
) -> None:
    """Adds the stencils of an element that stands at each of the offsets (K, 2)."""
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
            inner = gates
            if "data-choice" in own:
                inner = (*gates, (id(element), len(element), number))
            _collect(child, style, offsets, inner, stencils)
        return
    style = {**above, **own}
    hollow = style.get("fill") == "none"
    color = style.get("class") or style["stroke" if hollow else "fill"]
    alpha = float(style.get("fill-opacity", 1))
    solid = alpha == 1 and "data-decal" not in style
    paint = (color, float(style.get("data-shade", 1)), style["data-plane"], alpha, solid)
    line = float(style["stroke-width"]) if hollow else 0.0
    origin, across, down = _read_plane(style["data-plane"])
    outlines = [
        (origin + flat[:, :1] * across + flat[:, 1:] * down) / 100
        for flat in (o + offset for offset in offsets for o in _outlines(tag, own, line))
    ]
    chance = float(own.get("data-chance", 1))
    last = stencils[-1] if stencils else None
    if last and (last.paint, last.gates, last.chance, chance) == (paint, gates, 1, 1):
        outlines = [*last.points, *outlines]
        stencils.pop()
    stencils.append(_Stencil(_stack(outlines), paint, gates, chance))


class Drawer:
    """Draws one sprite, with what is left to chance decided.

    Args:
        chance: where chance comes from.
        colors: palettes: colors "#rrggbb" by name.
        sun_side: -1 or 1, where the sun stands, in the sprite's own frame.
        along: turns the front to the left, for what stands along the street at its right.
    """

    def __init__(
        self, chance: random.Random, colors: Mapping[str, list[str]], sun_side: float, along: bool
    ) -> None:
        self.chance = chance
        self.colors = colors
        self.sun_side = sun_side
        self.along = along
        self.chosen: dict[str, str] = {}
        self.passed: dict[int, int] = {}

    def draw(self, name: str) -> list[tuple[str, list[Shape]]]:
        """The parts of a sprite, rear to front: (label, shapes)."""
        parts = []
        for label, stencils in read_sprite(name)[1]:
            shapes = [self._cut(s) for s in stencils if all(self._is_open(*g) for g in s.gates)]
            parts.append((label, [shape for shape in shapes if len(shape.points)]))
        return parts

    def _is_open(self, gate: int, odds: float, option: int) -> bool:
        """Whether chance lets a gate pass: always the same for one sprite."""
        if gate not in self.passed:
            number = self.chance.randrange(int(odds)) if odds > 1 else 0
            self.passed[gate] = number if odds > 1 or self.chance.random() < odds else -1
        return self.passed[gate] == option

    def _cut(self, stencil: _Stencil) -> Shape:
        """A stencil on its plane, in its color."""
        color, shade, plane, alpha, solid = stencil.paint
        points = stencil.points
        if stencil.chance < 1:
            points = points[[self.chance.random() < stencil.chance for _ in points]]
        if not color.startswith("#"):
            if color not in self.chosen:
                self.chosen[color] = self.chance.choice(self.colors[color])
            color = self.chosen[color]
        shade *= self._brightness(plane)
        points = points[..., ::-1] if self.along else points
        return Shape(points, _shaded(color, shade), alpha, solid)

    def _brightness(self, plane: str) -> float:
        """How much of the sun a plane gets; what is flat or faces us gets as much as the rest."""
        kind, *words = plane.split()
        if self.along:
            faces_left, turned = True, kind in ("front", "lean")
        else:
            faces_left, turned = float(words[0]) <= 0, kind in ("side", "slope")
        if turned:
            return 1.06 if faces_left == (self.sun_side < 0) else 0.76
        return {"top": 1.12, "lean": 1.06, "side": 0.95}.get(kind, 1.0)


@lru_cache(maxsize=4096)
def _shaded(color: str, factor: float) -> Color:
    """ "#rrggbb" times a factor: RGB."""
    red, green, blue = (min(round(int(color[k : k + 2], 16) * factor), 255) for k in (1, 3, 5))
    return red, green, blue


def _read_plane(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin, direction of x and direction of y (down) of a `data-plane`, in cm."""
    kind, *words = text.split()
    n = [float(word) for word in words]
    x, y, z = np.eye(3)
    if kind == "front":
        return n[0] * z, x, -y
    if kind == "side":
        return n[0] * x, z, -y
    if kind == "top":
        return n[0] * y, x, -z
    if kind == "lean":
        return n[0] * y + n[1] * z, x, ((n[0] - n[2]) * y + (n[1] - n[3]) * z) / 100
    if kind == "slope":
        return n[0] * x + n[1] * y, z, ((n[0] - n[2]) * x + (n[1] - n[3]) * y) / 100
    raise ValueError(f"data-plane: {text!r}")


def _outlines(tag: str, values: Mapping[str, str], line: float) -> list[np.ndarray]:
    """The corners, float (N, 2) each, of an SVG shape, or of its stroke of a width."""
    if line:
        if tag in ("circle", "ellipse"):
            closed = _outlines(tag, values, 0.0)[0][[*range(28), 0]]
            away = _CIRCLE[[*range(28), 0]] * (line / 2)
            return [np.concatenate([closed + away, (closed - away)[::-1]])]
        strokes = []
        for points in _outlines(tag, values, 0.0):
            for a, b in itertools.pairwise(points):
                length = math.hypot(*(b - a)) or 1.0
                side = (b - a)[::-1] * (-line / 2 / length, line / 2 / length)
                strokes.append(np.stack([a + side, b + side, b - side, a - side]))
            strokes += [_CIRCLE[::2] * (line / 2) + point for point in points]
        return strokes

    def number(name: str, default: float = 0.0) -> float:
        return float(values.get(name, default))

    if tag == "path":
        return list(_read_path(values["d"]))
    if tag in ("polygon", "polyline"):
        return [np.array(values["points"].replace(",", " ").split(), float).reshape(-1, 2)]
    if tag == "line":
        return [np.array([[number("x1"), number("y1")], [number("x2"), number("y2")]])]
    if tag in ("circle", "ellipse"):
        wide_and_tall = (number("rx", number("r")), number("ry", number("r")))
        return [_CIRCLE * wide_and_tall + (number("cx"), number("cy"))]
    if tag == "rect":
        x, y, wide, tall = (number(name) for name in ("x", "y", "width", "height"))
        r = number("rx")
        if not r:
            return [np.array([[x, y], [x + wide, y], [x + wide, y + tall], [x, y + tall]])]
        right, low = x + wide - r, y + tall - r
        centers = ((right, low), (x + r, low), (x + r, y + r), (right, y + r))
        quarters = [_CIRCLE[7 * k : 7 * k + 8 if k < 3 else None] * r + c
                    for k, c in enumerate(centers)]  # fmt: skip
        return [np.concatenate(quarters)]
    raise ValueError(f"a sprite cannot use <{tag}>")


def _read_path(text: str) -> Iterator[np.ndarray]:
    """The subpaths of an SVG path."""
    words = re.findall(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)", text)
    counts = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "Q": 4, "Z": 0}
    points: list[np.ndarray] = []
    command, at = "", 0
    here = np.zeros(2)
    while at < len(words):
        if words[at].isalpha():
            command, at = words[at], at + 1
        kind = command.upper()
        values = np.array(words[at : at + counts[kind]], float)
        at += counts[kind]
        base = here if command.islower() else np.zeros(2)
        if kind == "Z" or (kind == "M" and points):
            if points:
                yield np.array(points)
                here = points[0]
            points = []
        if kind in "HV":
            axis = "HV".index(kind)
            here = here.copy()
            here[axis] = base[axis] + values[0]
            points.append(here)
        elif kind != "Z":
            ends = values.reshape(-1, 2) + base
            if kind == "Q":
                ends = np.stack([here + (ends[0] - here) * 2 / 3,
                                 ends[1] + (ends[0] - ends[1]) * 2 / 3, ends[1]])  # fmt: skip
            if kind in "CQ":
                t, s = _STEPS, 1 - _STEPS
                curve = s * s * s * here + 3 * s * t * (s * ends[0] + t * ends[1])
                points.extend(curve + t * t * t * ends[2])
            else:
                points.append(ends[0])
            here = ends[-1]
            if kind == "M":
                command = "l" if command == "m" else "L"
    if points:
        yield np.array(points)
