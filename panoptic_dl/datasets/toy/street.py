"""Composes a street in perspective: ground, two sides, and things between them.

What moves and stands in a street: vehicles, people, posts, crowds. Meters.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Collection

from panoptic_dl.datasets.toy import household as furniture
from panoptic_dl.datasets.toy import living as people
from panoptic_dl.datasets.toy import living as plants
from panoptic_dl.datasets.toy import outdoor as buildings
from panoptic_dl.datasets.toy import places as ground
from panoptic_dl.datasets.toy import vehicles as cars
from panoptic_dl.datasets.toy.canvas import Layer
from panoptic_dl.datasets.toy.scene import WEATHERS, Camera, Light, Part, Room, merge_crowd, settle


class _Traffic:
    """The things of one street.

    Args:
        classes: Cityscapes names of what may occur besides cars and persons.
        half: half the width of the road.
        pavement: width of the pavements.
    """

    def __init__(
        self,
        chance: random.Random,
        camera: Camera,
        light: Light,
        classes: frozenset[str],
        *,
        half: float,
        pavement: float,
    ) -> None:
        self.chance = chance
        self.camera = camera
        self.light = light
        self.classes = classes
        self.half = half
        self.pavement = pavement
        self.room = Room(camera.size)

    def fill(self) -> list[Part]:
        """Things and street furniture, nearest last."""
        chance = self.chance
        groups: list[list[Part]] = []

        def attempt(draw: Callable[[], list[Part]], tries: int = 6, overlap: float = 0.3) -> None:
            for _ in range(tries):
                parts = draw()
                if self.room.claim(parts, overlap):
                    groups.append(parts)
                    return

        if chance.random() < 0.16:
            attempt(lambda: [self.crowd_of_cars()])
        if chance.random() < 0.16:
            attempt(lambda: [self.crowd_of_people()])
        if chance.random() < 0.55:
            attempt(self.large_vehicle)
        for _ in range(chance.choice((1, 1, 2))):
            attempt(self.driving_car)
        for _ in range(chance.choice((0, 1, 1, 2))):
            attempt(self.parked_car)
        if chance.random() < 0.22:
            attempt(self.crossing_car)
        machines = [kind for kind in ("bicycle", "motorcycle") if kind in self.classes]
        if machines:
            for _ in range(chance.choice((0, 1, 1, 1))):
                attempt(lambda: self.rider(chance.choice(machines)), overlap=0.2)
        if "bicycle" in self.classes and chance.random() < 0.4:
            attempt(self.parked_bicycle, overlap=0.2)
        for _ in range(chance.choice((1, 2, 2, 3))):
            attempt(self.walker)
        for _ in range(chance.choice((0, 1, 1, 2)) if "pole" in self.classes else 0):
            attempt(self.pole, overlap=0.5)
        if chance.random() < 0.9 and "traffic sign" in self.classes:
            attempt(self.sign, overlap=0.4)
        if chance.random() < 0.5 and "traffic light" in self.classes:
            attempt(self.traffic_light, overlap=0.4)
        if chance.random() < 0.4:
            attempt(self.clutter)
        parts = [part for group in groups for part in group]
        parts.sort(key=lambda part: -part.depth)
        if chance.random() < 0.4:
            parts.append(ground.draw_hood(self.camera, chance))
        if chance.random() < 0.12:
            parts.append(self.border())
        return parts

    def clutter(self) -> list[Part]:
        """Something that belongs to no class."""
        x = self.beside(self.chance.choice((-1, 1)), 0.6, 1.8)
        z = self.chance.uniform(9.0, 16.0)
        draw = self.chance.choice(furniture.WITHOUT_CLASS)
        return [draw(self.camera, self.light, self.chance, x=x, z=z)]

    def beside(self, side: int, low: float, high: float) -> float:
        """A lateral position on the pavement, low..high meters from the kerb."""
        return side * (self.half + self.chance.uniform(low, min(high, self.pavement - 0.3)))

    def driving_car(self) -> list[Part]:
        """A car in the middle of its lane."""
        coming = self.chance.random() < 0.5
        x = (-0.5 if coming else 0.5) * self.half + self.chance.uniform(-0.3, 0.3)
        z = self.chance.uniform(8.0, 22.0)
        return [cars.draw_car(self.camera, self.light, self.chance, x=x, z=z, coming=coming)]

    def parked_car(self) -> list[Part]:
        """A car at the kerb."""
        side = self.chance.choice((-1, 1))
        x = side * (self.half - 0.9)
        z = self.chance.uniform(9.0, 22.0)
        return [cars.draw_car(self.camera, self.light, self.chance, x=x, z=z, coming=side < 0)]

    def crossing_car(self) -> list[Part]:
        """A car from its side."""
        x, z = self.chance.uniform(-3.5, 3.5), self.chance.uniform(10.0, 17.0)
        return [cars.draw_crossing_car(self.camera, self.light, self.chance, x=x, z=z)]

    def large_vehicle(self) -> list[Part]:
        """A bus, lorry or tram."""
        kinds = [kind for kind in cars.LARGE_VEHICLES if kind in self.classes]
        if not kinds:
            return []
        coming = self.chance.random() < 0.5
        x = (-0.52 if coming else 0.52) * self.half
        draw = cars.LARGE_VEHICLES[self.chance.choice(kinds)]
        z = self.chance.uniform(11.0, 21.0)
        return [draw(self.camera, self.light, self.chance, x=x, z=z, coming=coming)]

    def walker(self) -> list[Part]:
        """Somebody on the pavement or on the road."""
        if self.chance.random() < 0.35:
            x, z = self.chance.uniform(-0.8, 0.8) * self.half, self.chance.uniform(7.5, 12.0)
        else:
            x = self.beside(self.chance.choice((-1, 1)), 0.2, 2.4)
            z = self.chance.uniform(8.5, 14.0)
        return [people.place_person(self.camera, self.light, self.chance, x=x, z=z)]

    def rider(self, machine: str) -> list[Part]:
        """A cycle and its rider."""
        x, z = self.chance.uniform(-0.9, 0.9) * self.half, self.chance.uniform(7.0, 12.0)
        motor = machine == "motorcycle"
        parts = people.place_rider(self.camera, self.light, self.chance, x=x, z=z, motor=motor)
        return parts if "rider" in self.classes else parts[:1]

    def parked_bicycle(self) -> list[Part]:
        """A bicycle on the pavement."""
        x, z = self.beside(self.chance.choice((-1, 1)), 0.3, 1.4), self.chance.uniform(7.5, 11.5)
        return [people.place_parked_bicycle(self.camera, self.light, self.chance, x=x, z=z)]

    def pole(self) -> list[Part]:
        """A lamp post at the kerb."""
        side = self.chance.choice((-1, 1))
        x, z = side * (self.half + 0.4), self.chance.uniform(8.0, 15.0)
        return [furniture.draw_pole(self.camera, self.light, self.chance, x=x, z=z, side=side)]

    def sign(self) -> list[Part]:
        """A traffic sign and its post."""
        x = self.beside(self.chance.choice((-1, 1)), 0.3, 0.9)
        z = self.chance.uniform(8.0, 13.0)
        return self.name_posts(furniture.draw_sign(self.camera, self.light, self.chance, x=x, z=z))

    def traffic_light(self) -> list[Part]:
        """A traffic light and its post."""
        x, z = self.beside(self.chance.choice((-1, 1)), 0.3, 0.7), self.chance.uniform(8.0, 13.0)
        parts = furniture.draw_traffic_light(self.camera, self.light, self.chance, x=x, z=z)
        return self.name_posts(parts)

    def name_posts(self, parts: list[Part]) -> list[Part]:
        """Posts are of no class where poles are left out."""
        for part in parts:
            if part.label == "pole" and "pole" not in self.classes:
                part.label = "static"
        return parts

    def crowd_of_cars(self) -> Part:
        """A jam far ahead: "cargroup"."""
        z = self.chance.uniform(30.0, 36.0)
        side = self.chance.choice((-1, 1))
        jam = [
            cars.draw_car(
                self.camera,
                self.light,
                self.chance,
                x=side * (0.2 + 1.7 * number),
                z=z + self.chance.uniform(-1.5, 1.5),
                coming=side < 0,
            )
            for number in range(3)
        ]
        return merge_crowd(self.camera, "cargroup", jam)

    def crowd_of_people(self) -> Part:
        """People who stand close together on a pavement: "persongroup"."""
        side = self.chance.choice((-1, 1))
        z = self.chance.uniform(17.0, 24.0)
        walkers = [
            people.place_person(
                self.camera,
                self.light,
                self.chance,
                x=side * (self.half + 0.4 + 0.38 * number),
                z=z + self.chance.uniform(-0.5, 0.5),
            )
            for number in range(6)
        ]
        return merge_crowd(self.camera, "persongroup", walkers)

    def border(self) -> Part:
        """The dark margin that rectification leaves: "out of roi"."""
        height, width = self.camera.size
        side = self.chance.choice((-1, 1))
        wide = 0.008 * width
        x0 = 0.0 if side < 0 else width - wide
        layer = Layer(self.camera.size, (x0, 0, x0 + wide, height), self.camera.scale)
        layer.polygon(
            [(x0, -1), (x0, height + 1), (x0 + wide, height + 1), (x0 + wide, -1)], (24, 24, 28)
        )
        return Part("out of roi", layer, 0.0)


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
    street = _Street(chance, camera, light, frozenset(classes))
    parts = street.lay_ground() + street.build_sides()
    parts += _Traffic(
        chance, camera, light, frozenset(classes), half=street.half, pavement=street.pavement
    ).fill()
    for part in parts:
        if part.haze is None and part.depth < 100:
            part.haze = light.haze_at(part.depth)
    kept = settle(
        parts, size, least_area=0.0014 * height * width, least_share=0.4, void="unlabeled"
    )
    return kept, light


class _Street:
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
