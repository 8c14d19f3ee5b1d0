"""Paints the parts of a scene, and what a camera adds: grain, tint, darker corners, noise."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
from PIL import Image

from panoptic_dl.data.toy.canvas import Canvas, Colour
from panoptic_dl.data.toy.scene import Part, draw_order

# Strength of the texture by class: (fine grain, blotches), as shares of the colour.
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
    haze: Colour,
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
        noise: standard deviation of the sensor noise in grey levels.
    Returns:
        RGB, (W, H). Only sums and products of floats are used, which every machine rounds alike.
    """
    canvas = Canvas(size, scale)
    for part in parts:
        if part.shadow is not None:
            dark = part.shadow
            alpha = min(round(dark.alpha), 200)
            canvas.shadow(dark.centre, dark.radii, alpha, blur=max(dark.blur, 0.5))
        canvas.stick(part.layer)
    picture = np.asarray(canvas.finish(), dtype=np.float32)

    order = draw_order(parts, size)
    strengths = np.zeros((len(parts) + 1, 2), dtype=np.float32)
    tints = np.ones((len(parts) + 1, 3), dtype=np.float32)
    for number, part in enumerate(parts, start=1):
        strengths[number] = textures.get(part.label, (0.03, 0.02))
        if part.label != untinted:
            tints[number] = tint
    picture += (np.array(haze, dtype=np.float32) - picture) * spread_haze(parts, order)[..., None]

    height, width = size
    cell = max(height // 48, 2)
    grain = noise_field(chance, size, 1)
    blotches = noise_field(chance, size, cell)
    strength = strengths[order]
    factor = 1.0 + strength[..., 0] * grain + strength[..., 1] * blotches
    factor = factor * darken_corners(size)
    picture = picture * factor[..., None] * tints[order]

    dice = np.frombuffer(chance.randbytes(height * width * 6), dtype=np.uint8)
    pairs = dice.reshape(height, width, 3, 2).astype(np.float32)
    # The sum of two uniform bytes has standard deviation 104.5.
    picture = picture + (pairs[..., 0] + pairs[..., 1] - 255.0) * np.float32(noise / 104.5)
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def spread_haze(parts: list[Part], order: np.ndarray) -> np.ndarray:
    """Share of haze at each pixel: float32 (H, W)."""
    share = np.zeros(order.shape, dtype=np.float32)
    for number, part in enumerate(parts, start=1):
        if part.haze is not None:
            np.copyto(share, np.broadcast_to(part.haze, order.shape), where=order == number)
    return share


def noise_field(chance: random.Random, size: tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise in -1..1 whose bumps are `cell` pixels wide: float32 (H, W)."""
    rows, columns = -(-size[0] // cell) + 1, -(-size[1] // cell) + 1
    image = Image.frombytes("L", (columns, rows), chance.randbytes(rows * columns))
    if cell > 1:
        image = image.resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)
    field = np.asarray(image, dtype=np.float32)[: size[0], : size[1]]
    return (field - 127.5) / np.float32(127.5)


def darken_corners(size: tuple[int, int]) -> np.ndarray:
    """A lens's fall-off to 0.88 in the corners: float32 (H, W)."""
    rows = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return 1.0 - np.float32(0.06) * (rows * rows + columns * columns)
