"""Supersampled drawing: layers, cut-outs with a coverage mask, stuck on a canvas back to front.

Coordinates are image pixels as floats, x to the right and y down, the first pixel spanning [0, 1).
Everything is drawn `scale` times larger with Pillow's integer rasteriser and averaged down at the
end, which gives smooth edges and the same bytes on every machine.

The outline of a layer is traced on its own coverage, so that a label made from the outline cannot
disagree with what was painted by more than the rounding of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Point = tuple[float, float]


class Layer:
    """A cut-out: colors, and the coverage mask that says where they are.

    Args:
        size: (H, W) of the image in pixels.
        box: (x0, y0, x1, y1), what the drawing will touch; it is cut to the image.
        scale: supersampling factor.
    """

    def __init__(self, size: tuple[int, int], box: Sequence[float], scale: int) -> None:
        height, width = size
        self.scale = scale
        self.x0 = min(max(int(box[0]) - 2, 0), width - 1)
        self.y0 = min(max(int(box[1]) - 2, 0), height - 1)
        self.x1 = max(min(int(box[2]) + 3, width), self.x0 + 1)
        self.y1 = max(min(int(box[3]) + 3, height), self.y0 + 1)
        shape = ((self.x1 - self.x0) * scale, (self.y1 - self.y0) * scale)
        self.colors = Image.new("RGB", shape)
        self.mask = Image.new("L", shape)
        self._ink = ImageDraw.Draw(self.colors, "RGBA")
        self._knife = ImageDraw.Draw(self.mask)

    def _local(self, points: Sequence[Point]) -> list[Point]:
        # Far points are pulled in: Pillow's rasteriser takes time and memory in proportion.
        s, limit = self.scale, 20000.0
        return [
            (
                min(max((x - self.x0) * s - 0.5, -limit), limit),
                min(max((y - self.y0) * s - 0.5, -limit), limit),
            )
            for x, y in points
        ]

    def polygon(
        self, points: Sequence[Point], color: Color, *, alpha: int = 255, solid: bool = True
    ) -> None:
        """Fills a polygon; `solid` adds it to the silhouette, else it colors what is there."""
        local = self._local(points)
        if len(local) < 3:
            return
        self._ink.polygon(local, fill=(*color, alpha))
        if solid:
            self._knife.polygon(local, fill=255)

    def ellipse(
        self, center: Point, radii: Point, color: Color, *, alpha: int = 255, solid: bool = True
    ) -> None:
        """Fills an upright ellipse of half-axes `radii` in pixels."""
        (left, top), (right, bottom) = self._local(
            [
                (center[0] - radii[0], center[1] - radii[1]),
                (center[0] + radii[0], center[1] + radii[1]),
            ]
        )
        self._ink.ellipse((left, top, right, bottom), fill=(*color, alpha))
        if solid:
            self._knife.ellipse((left, top, right, bottom), fill=255)

    def ring(self, center: Point, radii: Point, width: float, color: Color) -> None:
        """Draws an ellipse's rim, `width` pixels towards its inside, as part of the silhouette."""
        (left, top), (right, bottom) = self._local(
            [
                (center[0] - radii[0], center[1] - radii[1]),
                (center[0] + radii[0], center[1] + radii[1]),
            ]
        )
        pixels = max(round(width * self.scale), 1)
        self._ink.ellipse((left, top, right, bottom), outline=(*color, 255), width=pixels)
        self._knife.ellipse((left, top, right, bottom), outline=255, width=pixels)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        color: Color,
        *,
        alpha: int = 255,
        solid: bool = True,
    ) -> None:
        """Draws a stroke of `width` pixels with round ends and joints."""
        local = self._local(points)
        pixels = max(round(width * self.scale), 1)
        self._ink.line(local, fill=(*color, alpha), width=pixels, joint="curve")
        if solid:
            self._knife.line(local, fill=255, width=pixels, joint="curve")
        if alpha == 255 and pixels > 2:
            r = pixels / 2
            for x, y in (local[0], local[-1]):
                self._ink.ellipse((x - r, y - r, x + r, y + r), fill=(*color, 255))
                if solid:
                    self._knife.ellipse((x - r, y - r, x + r, y + r), fill=255)

    def coverage(self) -> np.ndarray:
        """Which pixels are at least half covered: bool (y1 - y0, x1 - x0)."""
        return np.asarray(self.mask.reduce(self.scale)) >= 128

    def keep_largest_part(self) -> bool:
        """Erases all but the largest connected part; False if nothing is left of the layer.

        A Cityscapes instance is one polygon, so a thing must be one piece.
        """
        coverage = self.coverage().astype(np.uint8)
        num, parts, stats, _ = cv2.connectedComponentsWithStats(coverage, connectivity=8)
        if num < 2:
            return False
        if num > 2:
            largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
            near = cv2.dilate((parts == largest).astype(np.uint8), np.ones((3, 3), np.uint8))
            near[(parts > 0) & (parts != largest)] = 0
            keep = Image.fromarray(near * 255).resize(self.mask.size, Image.Resampling.NEAREST)
            self.mask = Image.fromarray(np.minimum(np.asarray(self.mask), np.asarray(keep)))
            self._knife = ImageDraw.Draw(self.mask)
        return True

    def outlines(self, tolerance: float = 0.5) -> list[list[tuple[int, int]]]:
        """Outer contours in whole pixels, largest first; Pillow fills one to get the coverage back.

        Args:
            tolerance: how far in pixels a vertex that is left out may lie from the outline.
        """
        coverage = self.coverage().astype(np.uint8)
        found = cv2.findContours(coverage, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
        outlines = []
        for contour in sorted(found, key=cv2.contourArea, reverse=True):
            vertices = cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2)
            if len(vertices) >= 3:
                outlines.append([(int(x) + self.x0, int(y) + self.y0) for x, y in vertices])
        return outlines


class Canvas:
    """The picture under work, `scale` times larger than it will be."""

    def __init__(self, size: tuple[int, int], scale: int) -> None:
        self.size = size
        self.scale = scale
        self.image = Image.new("RGB", (size[1] * scale, size[0] * scale))

    def stick(self, layer: Layer) -> None:
        """Puts a layer on top."""
        origin = (layer.x0 * self.scale, layer.y0 * self.scale)
        self.image.paste(layer.colors, origin, layer.mask)

    def shadow(self, center: Point, radii: Point, alpha: int, *, blur: float) -> None:
        """Darkens a soft ellipse (the shadow of a thing on the ground); `blur` in pixels."""
        margin = 2 * blur + 1
        x0, y0 = int(center[0] - radii[0] - margin), int(center[1] - radii[1] - margin)
        x1, y1 = int(center[0] + radii[0] + margin) + 1, int(center[1] + radii[1] + margin) + 1
        if x1 <= x0 or y1 <= y0 or x1 < 0 or y1 < 0 or x0 > self.size[1] or y0 > self.size[0]:
            return
        # Soft, so drawn at twice the size only and stretched.
        mask = Image.new("L", ((x1 - x0) * 2, (y1 - y0) * 2))
        ImageDraw.Draw(mask).ellipse(
            (
                (center[0] - radii[0] - x0) * 2,
                (center[1] - radii[1] - y0) * 2,
                (center[0] + radii[0] - x0) * 2,
                (center[1] + radii[1] - y0) * 2,
            ),
            fill=alpha,
        )
        mask = mask.filter(ImageFilter.GaussianBlur(blur * 2))
        s = self.scale
        mask = mask.resize(((x1 - x0) * s, (y1 - y0) * s), Image.Resampling.BILINEAR)
        self.image.paste((12, 14, 24), (x0 * s, y0 * s), mask)

    def finish(self) -> Image.Image:
        """The picture at its own size, (W, H) RGB."""
        return self.image.reduce(self.scale)


class Pen:
    """Draws on a layer in a thing's own frame: origin at its foot, x right, y up, its own units.

    Args:
        layer: where to draw.
        foot: the origin in image pixels.
        unit: pixels per unit.
        flip: mirrors x (a thing that faces left).
    """

    def __init__(self, layer: Layer, foot: Point, unit: float, *, flip: bool = False) -> None:
        self.layer = layer
        self.foot = foot
        self.unit = unit
        self.sign = -1.0 if flip else 1.0

    def place(self, point: Point) -> Point:
        """Own frame -> image pixels."""
        return (
            self.foot[0] + self.sign * point[0] * self.unit,
            self.foot[1] - point[1] * self.unit,
        )

    def polygon(
        self, points: Sequence[Point], color: Color, *, alpha: int = 255, solid: bool = True
    ) -> None:
        """See `Layer.polygon`."""
        self.layer.polygon([self.place(p) for p in points], color, alpha=alpha, solid=solid)

    def ellipse(
        self, center: Point, radii: Point, color: Color, *, alpha: int = 255, solid: bool = True
    ) -> None:
        """See `Layer.ellipse`."""
        scaled = (radii[0] * self.unit, radii[1] * self.unit)
        self.layer.ellipse(self.place(center), scaled, color, alpha=alpha, solid=solid)

    def ring(self, center: Point, radii: Point, width: float, color: Color) -> None:
        """See `Layer.ring`."""
        scaled = (radii[0] * self.unit, radii[1] * self.unit)
        self.layer.ring(self.place(center), scaled, width * self.unit, color)

    def line(
        self,
        points: Sequence[Point],
        width: float,
        color: Color,
        *,
        alpha: int = 255,
        solid: bool = True,
    ) -> None:
        """See `Layer.line`."""
        self.layer.line(
            [self.place(p) for p in points], width * self.unit, color, alpha=alpha, solid=solid
        )


def mix(first: Color, second: Color, amount: float) -> Color:
    """`first` at amount 0, `second` at amount 1."""
    red, green, blue = (
        min(max(round(a + (b - a) * amount), 0), 255) for a, b in zip(first, second, strict=True)
    )
    return red, green, blue


def brighten(color: Color, factor: float) -> Color:
    """`color` times `factor`, cut to 0..255."""
    red, green, blue = (min(max(round(c * factor), 0), 255) for c in color)
    return red, green, blue


def rectangle(left: float, low: float, right: float, high: float) -> list[Point]:
    """Corners of an upright rectangle."""
    return [(left, low), (left, high), (right, high), (right, low)]


def arc(center: Point, radii: Point, begin: float, end: float, steps: int = 18) -> list[Point]:
    """Points of an ellipse between two angles in turns, counter-clockwise from the right."""
    points = []
    for step in range(steps + 1):
        angle = 2 * math.pi * (begin + (end - begin) * step / steps)
        points.append(
            (center[0] + radii[0] * math.cos(angle), center[1] + radii[1] * math.sin(angle))
        )
    return points
