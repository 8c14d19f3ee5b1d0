"""Scenes of the toy COCO indoors: a laid table, a living room. Pixels."""

from __future__ import annotations

import random

from panoptic_dl.data.toy.canvas import brighten, rectangle
from panoptic_dl.data.toy.places import Place
from panoptic_dl.data.toy.scene import Light

INDOORS = Light(
    ((200, 196, 188), (220, 214, 204)),
    ((255, 255, 255), 0.0),
    (220, 214, 204),
    (1.02, 1.0, 0.96),
    0.3,
    1,
)


def paper_wall(place: Place, low: float) -> None:
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


def compose_table(chance: random.Random, size: tuple[int, int], scale: int) -> Place:
    """Food and dishes on a table before a wall."""
    place = Place(chance, size, scale, INDOORS)
    height, width = size
    edge = height * chance.uniform(0.42, 0.5)
    paper_wall(place, edge)
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


def compose_living_room(chance: random.Random, size: tuple[int, int], scale: int) -> Place:
    """Furniture on a wooden floor."""
    place = Place(chance, size, scale, INDOORS)
    height, width = size
    edge = height * chance.uniform(0.58, 0.66)
    paper_wall(place, edge)
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
