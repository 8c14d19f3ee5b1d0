"""What moves and stands in a street: vehicles, people, posts, crowds. Metres."""

from __future__ import annotations

import random
from collections.abc import Callable

from panoptic_dl.data.toy import cars, furniture, ground, large_vehicles, people
from panoptic_dl.data.toy.canvas import Layer
from panoptic_dl.data.toy.placement import Room, merge_crowd
from panoptic_dl.data.toy.scene import Camera, Light, Part


class Traffic:
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
        draws = (furniture.draw_bin, furniture.draw_pram, furniture.draw_heap)
        x = self.beside(self.chance.choice((-1, 1)), 0.6, 1.8)
        z = self.chance.uniform(9.0, 16.0)
        return [self.chance.choice(draws)(self.camera, self.light, self.chance, x=x, z=z)]

    def beside(self, side: int, low: float, high: float) -> float:
        """A lateral position on the pavement, low..high metres from the kerb."""
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
        draws = {
            "bus": large_vehicles.draw_bus,
            "truck": large_vehicles.draw_truck,
            "train": large_vehicles.draw_train,
        }
        kinds = [kind for kind in draws if kind in self.classes]
        if not kinds:
            return []
        coming = self.chance.random() < 0.5
        x = (-0.52 if coming else 0.52) * self.half
        draw = draws[self.chance.choice(kinds)]
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
