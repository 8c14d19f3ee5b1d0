"""Scenes of the toy COCO in the open: a beach, a meadow, a street corner. Pixels."""

from __future__ import annotations

import dataclasses
import random

from panoptic_dl.data.toy.buildings import PLASTERS, ROOFS, WINDOW, WINDOW_LIGHT
from panoptic_dl.data.toy.canvas import Point, brighten, mix, rectangle
from panoptic_dl.data.toy.places import Place, plant_tree
from panoptic_dl.data.toy.scene import WEATHERS, Light


def daylight(chance: random.Random) -> Light:
    """Weather for the open air."""
    weather = WEATHERS[chance.choice(("noon", "noon", "morning", "golden", "overcast"))]
    return dataclasses.replace(weather, sun_side=chance.choice((-1, 1)))


def compose_beach(chance: random.Random, size: tuple[int, int], scale: int) -> Place:
    """Sky, sea and sand."""
    place = Place(chance, size, scale, daylight(chance))
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


def compose_meadow(chance: random.Random, size: tuple[int, int], scale: int) -> Place:
    """Mountains, a wood, grass."""
    place = Place(chance, size, scale, daylight(chance))
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
        plant_tree(
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


def compose_corner(chance: random.Random, size: tuple[int, int], scale: int) -> Place:
    """Houses across a road."""
    place = Place(chance, size, scale, daylight(chance))
    height, width = size
    kerb = height * chance.uniform(0.56, 0.62)
    road = kerb + 0.07 * height
    place.sky(kerb)
    x = -0.1 * width * chance.random()
    while x < width:
        wide = place.side * chance.uniform(0.36, 0.6)
        draw_facade(place, (x, x + wide), kerb - height * chance.uniform(0.3, 0.48), kerb + 2)
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
        plant_tree(place, width * chance.random(), road - 0.01 * height)
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


def draw_facade(place: Place, xs: tuple[float, float], top: float, low: float) -> None:
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
