"""Composes a street in perspective: ground, two sides, and things between them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection

from panoptic_dl.data.toy import buildings, ground, plants
from panoptic_dl.data.toy.scene import WEATHERS, Camera, Light, Part, settle
from panoptic_dl.data.toy.traffic import Traffic


def compose_street(
    chance: random.Random, size: tuple[int, int], *, classes: Collection[str], scale: int
) -> tuple[list[Part], Light]:
    """Parts of a street scene in painter's order, with their outlines.

    Args:
        chance: the sample's source of chance.
        size: (H, W) in pixels.
        classes: Cityscapes names of the things and street furniture that may occur.
        scale: supersampling factor.
    """
    height, width = size
    light = dataclasses.replace(
        WEATHERS[chance.choice(("noon", "noon", "morning", "golden", "overcast"))],
        sun_side=chance.choice((-1, 1)),
    )
    camera = Camera(
        size=size,
        scale=scale,
        focal=chance.uniform(1.6, 1.85) * height,
        vanish=(width * chance.uniform(0.4, 0.6), height * chance.uniform(0.37, 0.45)),
        eye=chance.uniform(1.5, 1.75),
        offset=chance.uniform(-0.6, 2.2),
    )
    street = Street(chance, camera, light, frozenset(classes))
    parts = street.lay_ground() + street.build_sides()
    parts += Traffic(
        chance, camera, light, frozenset(classes), half=street.half, pavement=street.pavement
    ).fill()
    for part in parts:
        if part.haze is None and part.depth < 100:
            part.haze = light.haze_at(part.depth)
    kept = settle(
        parts, size, least_area=0.0014 * height * width, least_share=0.4, void="unlabeled"
    )
    return kept, light


class Street:
    """A street while it is being put together; see `compose_street`."""

    def __init__(
        self, chance: random.Random, camera: Camera, light: Light, classes: frozenset[str]
    ) -> None:
        self.chance = chance
        self.camera = camera
        self.light = light
        self.classes = classes
        self.half = chance.uniform(3.7, 4.6)
        self.pavement = chance.uniform(2.6, 3.6)
        self.edge = self.half + self.pavement
        kinds = ["city", "park", "park", "yard"]
        first = chance.choice(kinds)
        second = chance.choice([kind for kind in kinds if kind != first or kind == "city"])
        self.sides = {-1: first, 1: second}

    def lay_ground(self) -> list[Part]:
        """Sky, meadow or paving, pavements, road, and what closes the street far away."""
        camera, light, chance = self.camera, self.light, self.chance
        parts = [ground.draw_sky(camera, light, chance)]
        crossing = chance.uniform(9, 15) if chance.random() < 0.35 else 0.0
        strips = []
        for side, kind in self.sides.items():
            outer = sorted((0.0, side * 400.0))
            if kind == "city":
                strips.append(
                    ground.draw_sidewalk(camera, light, chance, (outer[0], outer[1]), 0.0)
                )
            else:
                strips.append(ground.draw_terrain(camera, light, chance, (outer[0], outer[1])))
        walks = []
        for side in self.sides:
            low, high = sorted((side * (self.half - 0.2), side * self.edge))
            walks.append(
                ground.draw_sidewalk(camera, light, chance, (low, high), low if side > 0 else high)
            )
        road = ground.draw_road(camera, light, chance, self.half, crossing=crossing)
        if self.sides[light.sun_side] == "city" and light.shadow > 0.3:
            side = light.sun_side
            tip = side * self.half * chance.uniform(-0.1, 0.7)
            walk = walks[0] if side < 0 else walks[1]
            for part in (walk, road):
                ground.draw_long_shadow(camera, part, light, (side * 40.0, tip, 55.0))
        parts += strips + walks + [road]
        if "city" in self.sides.values() and chance.random() < 0.6:
            parts.append(buildings.draw_skyline(camera, light, chance))
        else:
            parts.append(plants.draw_far_wood(camera, light, chance))
        return parts

    def build_sides(self) -> list[Part]:
        """Houses, gardens and parks; all of it lies behind what stands on the pavement."""
        parts: list[Part] = []
        for side, kind in self.sides.items():
            if kind == "city":
                parts += self.build_houses(side, self.edge, 62.0, tallest=13.0)
            elif kind == "yard":
                if self.chance.random() < 0.5:
                    parts += self.build_houses(side, self.edge + 5.0, 50.0, tallest=9.0)
                else:
                    parts.append(self.plant_hedge(side, self.edge + 4.0, 4.0))
                parts += self.plant_trees(side, self.edge + 2.2, 1)
                parts.append(self.enclose(side))
            else:
                parts.append(self.plant_hedge(side, self.edge + 9.0, 5.0))
                parts += self.plant_trees(side, self.edge + 3.0, 3)
        return parts

    def build_houses(self, side: int, x: float, far: float, *, tallest: float) -> list[Part]:
        """A row of houses from far to near, out of the picture at its near end."""
        houses = []
        leave = self.camera.focal * (x - side * self.camera.offset) / self.camera.size[1] * 0.75
        while far > leave:
            near = max(far - self.chance.uniform(8, 15), 1.2)
            houses.append(
                buildings.draw_house(
                    self.camera,
                    self.light,
                    self.chance,
                    side=side,
                    x=side * x,
                    near=near,
                    far=far,
                    height=self.chance.uniform(6.5, tallest),
                )
            )
            far = near
        return houses

    def plant_hedge(self, side: int, x: float, tall: float) -> Part:
        """A hedge along the whole side."""
        return plants.draw_hedge(
            self.camera,
            self.light,
            self.chance,
            x=side * x,
            near=3.0,
            far=75.0,
            height=tall * self.chance.uniform(0.8, 1.2),
        )

    def plant_trees(self, side: int, x: float, count: int) -> list[Part]:
        """Trees from far to near."""
        places = sorted((self.chance.uniform(15, 42) for _ in range(count)), reverse=True)
        return [
            plants.draw_tree(
                self.camera,
                self.light,
                self.chance,
                x=side * (x + self.chance.uniform(0.0, 2.5)),
                z=z,
            )
            for z in places
        ]

    def enclose(self, side: int) -> Part:
        """A fence or a wall along the pavement."""
        kinds = [kind for kind in ("fence", "wall") if kind in self.classes]
        kind = self.chance.choice(kinds) if kinds else "hedge"
        if kind == "hedge":
            return self.plant_hedge(side, self.edge, 1.4)
        draw = buildings.draw_fence if kind == "fence" else buildings.draw_wall
        return draw(
            self.camera,
            self.light,
            self.chance,
            x=side * self.edge,
            near=3.0,
            far=self.chance.uniform(34, 55),
        )
