"""Scenes: sprites placed as `assets/layouts.yaml` says, seen, lit and photographed.

`assets/README.md` explains the keys of a layout.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFilter

from panoptic_dl.datasets.toy import sprites
from panoptic_dl.datasets.toy.sprites import ASSETS, Camera, Paint, draw_sprite, fill, read_sprite

Item = Mapping[str, Any]


def check_parameters(
    version: int, num_train: int, num_val: int, size: Sequence[int], smallest: int, seed: int
) -> dict[str, Any]:
    """What the content of a toy depends on; `size` is (H, W), both at least `smallest` pixels.

    Raises:
        ValueError: a number is out of range.
    """
    if min(size) < smallest:
        raise ValueError(f"size must be (H, W), both at least {smallest}, got {tuple(size)}")
    if num_train < 1 or num_val < 1:
        raise ValueError(f"num_train and num_val must be at least 1, got {num_train}, {num_val}")
    numbers = {"version": version, "num_train": num_train, "num_val": num_val, "seed": seed}
    return numbers | {"size": [int(side) for side in size]}


@cache
def read_layouts() -> dict[str, Any]:
    """`assets/layouts.yaml`: colors, weathers, textures and places."""
    return yaml.safe_load((ASSETS / "layouts.yaml").read_text())


def sample_random(seed: int, split: str, index: int) -> random.Random:
    """The source of chance of one sample, seeded by text, which Python hashes alike everywhere."""
    return random.Random(f"panoptic-dl toy {seed} {split} {index}")


@dataclass
class Part:
    """One labeled cut-out of the scene.

    Attributes:
        label: the dataset's own name of the class (or group, or void region).
        paints: what is painted, in this order.
        depth: meters from the camera.
        is_thing: one instance; it is dropped when too little of it stays visible.
        is_crowd: many instances in one region.
        haze: its depth for the haze: one number, or meters float32 (H, 1) or (1, W).
        is_ground: shadows fall on it.
        round: how dark it is at the side that the sun does not reach, 0..1.
        casters: what throws its shadow: shapes, place and scale.
        outlines: polygons in whole pixels, set by `settle`.
    """

    label: str
    paints: list[Paint]
    depth: float
    is_thing: bool = False
    is_crowd: bool = False
    haze: float | np.ndarray = 0.0
    is_ground: bool = False
    round: float = 0.0
    casters: list[tuple[list[Paint], np.ndarray, np.ndarray]] = field(default_factory=list)
    outlines: list[list[tuple[int, int]]] = field(default_factory=list)

    def box(self) -> tuple[float, float, float, float] | None:
        """(left, top, right, bottom) of the silhouette in pixels; None for nothing."""
        points = [paint.polygons.reshape(-1, 2) for paint in self.paints if paint.solid]
        if not points:
            return None
        corners = np.concatenate(points)
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return float(left), float(top), float(right), float(bottom)

    def region(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """`box` in whole pixels, cut to the image (H, W): x0, y0, x1, y1."""
        left, top, right, bottom = self.box() or (0.0, 0.0, 0.0, 0.0)
        x0, y0 = max(int(left) - 1, 0), max(int(top) - 1, 0)
        return x0, y0, max(min(int(right) + 2, size[1]), x0), max(min(int(bottom) + 2, size[0]), y0)

    def silhouette(self, region: tuple[int, int, int, int], scale: int) -> np.ndarray:
        """255 where the part is, `scale` pixels for one: uint8 (rows, columns) of the region."""
        x0, y0, x1, y1 = region
        mask = np.zeros(((y1 - y0) * scale, (x1 - x0) * scale), np.uint8)
        for paint in self.paints:
            if paint.solid:
                fill(mask, paint, [255], scale=scale, origin=(x0, y0))
        return mask

    def trace(self, size: tuple[int, int]) -> None:
        """Sets the outlines; none for a thing in pieces, for an instance is one polygon."""
        region = self.region(size)
        if region[0] >= region[2] or region[1] >= region[3]:
            return
        small = (region[2] - region[0]) * (region[3] - region[1]) < 20000
        scale = 4 if self.is_thing and small else 1
        mask = self.silhouette(region, scale)
        if scale > 1:
            mask = np.asarray(Image.fromarray(mask).reduce(scale))
        mask, how = (mask >= 128).astype(np.uint8), cv2.CHAIN_APPROX_SIMPLE
        found = cv2.findContours(mask, cv2.RETR_EXTERNAL, how, offset=region[:2])[-2]
        for contour in sorted(found, key=cv2.contourArea, reverse=True):
            vertices = cv2.approxPolyDP(contour, 0.5, True).reshape(-1, 2)
            if len(vertices) >= 3:
                self.outlines.append([(int(x), int(y)) for x, y in vertices])
        if self.is_thing and len(self.outlines) > 1:
            self.outlines = []


class Stand(NamedTuple):
    """Where a sprite stands: (3,) in meters, and its scale (3,), negative in x where mirrored."""

    name: str
    place: np.ndarray
    scale: np.ndarray


class Scene:
    """A scene while it is being put together, and its photograph.

    Args:
        place: name of a layout.
        chance: the sample's source of chance.
        size: (H, W) in pixels.
        things: labels of which every one is an instance.
        classes: labels that may occur; all where None.
        void: label of what has no class.
    """

    def __init__(self, place: str, chance: random.Random, size: tuple[int, int], *,
                 things: Collection[str], classes: Collection[str] | None = None,
                 void: str) -> None:  # fmt: skip
        layouts = read_layouts()
        self.layout: Item = layouts["places"][place]
        self.colors: Mapping[str, list[str]] = layouts["colors"]
        self.textures: Mapping[str, list[float]] = layouts["textures"]
        self.chance, self.size = chance, size
        self.things, self.classes, self.void = things, classes, void
        self.weather: Item = layouts["weathers"][self._weigh(self.layout["weather"])]
        self.sun_side = chance.choice((-1, 1))
        lens, (height, width) = self.layout["camera"], size
        names = ("focal", "vanish", "horizon", "eye", "offset")
        focal, right, low, eye, offset = (self._between(lens[name]) for name in names)
        vanish = (width * right, height * low)
        self.camera = Camera(size, focal * min(size), vanish, eye, offset, lens["near"])
        # Depth of the ground by row, and where the shadow of a thing 1 m tall ends: x and z.
        down = np.arange(height, dtype=np.float32)[:, None] - np.float32(self.camera.vanish[1])
        self.ground = np.float32(self.camera.focal * self.camera.eye) / np.maximum(down, 0.5)
        self.slant = (-self.sun_side * chance.uniform(0.5, 1.1), chance.uniform(-0.35, 0.1))
        self.taken: list[np.ndarray] = []  # boxes
        self.parts = self._compose()

    def _between(self, limits: list[float]) -> float:
        return self.chance.uniform(*limits)

    def _weigh(self, weights: Mapping[Any, float]) -> Any:
        return self.chance.choices(list(weights), list(weights.values()))[0]

    def _compose(self) -> list[Part]:
        """All parts that stay, in painter's order, with outlines."""
        groups: list[list[Part]] = []
        things = [] if self.chance.random() < self.layout["empty"] else self.layout["things"]
        for items in (self.layout["backdrop"], things, self.layout.get("front", [])):
            put = self._find_room if items is things else self._draw
            drawn = [group for item in items for group in self._items(item, put) if group]
            if items is things:
                drawn.sort(key=lambda group: -group[0].depth)
            groups += drawn
        parts = [part for group in groups for part in group]
        least = self.layout["least"] * self.size[0] * self.size[1]
        return settle(parts, self.size, least_area=least, least_share=0.4, void=self.void)

    def _items(self, item: Item, put: Any, above: int = 0) -> Iterator[list[Part]]:
        """What one item of a layout gives, group by group; `put(item, side, z)` draws one."""
        if self.chance.random() >= item.get("chance", 1.0):
            return
        sides = {"each": (-1, 1), "any": (self.chance.choice((-1, 1)),), "": (above,)}
        for side in sides[item.get("side", "")]:
            if "either" in item:
                for each in self.layout["groups"][self._weigh(item["either"])]:
                    yield from self._items(each, put, side)
            elif "row" in item:
                x, z = self._between(item["x"]), self._between(item["z"])
                lens, along = self.camera, item.get("along", False)
                # Nearer ones lie beside the picture, as do those to the right.
                leave = lens.focal * (x - side * lens.offset) / (0.62 * self.size[1])
                while z > leave if along else x < item["row"]:
                    name = self.chance.choice(item["sprite"])
                    length = float(read_sprite(name)[0]["data-length"]) / 100
                    z -= length * along
                    yield put({**item, "sprite": name, "x": [x, x]}, side, z)
                    x += length * (not along)
            else:
                count = self._weigh(item.get("count", {1: 1}))
                depths = [self._between(item.get("z", [1, 1])) for _ in range(count)]
                yield from (put(item, side, depth) for depth in sorted(depths, reverse=True))

    def _find_room(self, item: Item, side: int, z: float) -> list[Part]:
        """Draws an item where it hides others and is hidden as little as it must be, or nothing."""
        most = item.get("overlap", 0.3)
        for attempt in range(6):
            stands = self._choose(item, side, z if attempt == 0 else self._between(item["z"]))
            if not stands:
                continue
            boxes = [sprites.sprite_box(s.name) * s.scale + s.place for s in stands]
            corners = self.camera.project(np.concatenate(boxes))
            box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
            shown = min(box[2], self.size[1]) - max(box[0], 0)
            if shown >= 0.3 * (box[2] - box[0]) and all(
                _area(_common(box, other)) <= most * min(_area(box), _area(other))
                for other in self.taken
            ):
                self.taken.append(box)
                return self._stand(item, stands)
        return []

    def _draw(self, item: Item, side: int, z: float) -> list[Part]:
        return self._stand(item, self._choose(item, side, z))

    def _choose(self, item: Item, side: int, z: float) -> list[Stand]:
        """One sprite of an item and its place, or those of a crowd, far to near."""
        if "across" in item:
            pixel = self.size[1] * self._between(item["across"])
            x = (pixel - self.camera.vanish[0]) * z / self.camera.focal + self.camera.offset
        else:
            x = self._between(item.get("x", [0, 0])) * (side or 1)
        first = np.array([x, self._between(item.get("y", [0, 0])), z])
        dx, dz = item.get("step", (0, 0))
        names = [item["sprite"]] if isinstance(item["sprite"], str) else item["sprite"]
        names = [name for name in names if self._may_occur(name)]
        stands = []
        for number in range(item.get("members", 1) if names else 0):
            step = np.array([dx * number * (side or 1), 0.0, self.chance.uniform(-dz, dz)])
            place = first + step
            name = self.chance.choice(names)
            turned = read_sprite(name)[0].get("data-mirror", "chance")
            mirror = {
                "chance": self.chance.choice((-1, 1)),
                "camera": -1 if place[0] > self.camera.offset else 1,
                "side": side or (1 if place[0] >= 0 else -1),
                "none": 1,
            }["side" if item.get("along") else turned]
            size = self._between(item.get("size", [1, 1]))
            stands.append(Stand(name, place, np.array([mirror * size, size, size])))
        return sorted(stands, key=lambda stand: -stand.place[2])

    def _stand(self, item: Item, stands: list[Stand]) -> list[Part]:
        """The parts of what stands there; a crowd is one."""
        parts = [part for stand in stands for part in self._draw_one(item, stand)]
        if "crowd" not in item or not parts:
            return parts
        crowd = Part(item["crowd"], [], parts[-1].depth, is_crowd=True, haze=parts[-1].depth)
        for part in parts:
            crowd.paints += part.paints
            crowd.casters += part.casters
        return [crowd]

    def _draw_one(self, item: Item, stand: Stand) -> list[Part]:
        """The parts of one sprite at its place."""
        name, place, scale = stand.name, stand.place, stand.scale
        about = read_sprite(name)[0]
        along = bool(item.get("along"))
        mirror = float(np.sign(scale[0]))
        parts = []
        sun_side = self.sun_side * mirror
        drawn = draw_sprite(name, self.chance, self.colors, sun_side=sun_side, along=along)
        for label, shapes in drawn:
            label = item.get("label", label)
            if self.classes is not None and label not in self.classes:
                if label != "pole":
                    continue  # a rider; the machine stays
                label = "static"  # the post of a sign
            if item.get("frame"):
                corner, whole = ((mirror < 0), 1), self.size[::-1]
                flat = [(p.polygons[..., :2] * (mirror, -1) + corner) * whole for p in shapes]
                paints = [replace(p, polygons=f) for p, f in zip(shapes, flat, strict=True)]
            else:
                paints = self.camera.see(shapes, place, scale)
            part = Part(label, paints, float(place[2]), label in self.things)
            part.round = float(about.get("data-round", 0))
            part.is_ground = about.get("data-lies") == "ground"
            # By row, by column, or all of it at one depth.
            part.haze = self.ground if part.is_ground else float(place[2])
            if along:
                away = np.float32(self.camera.focal * abs(place[0] - self.camera.offset))
                columns = np.arange(self.size[1], dtype=np.float32)[None]
                beside = np.abs(columns - np.float32(self.camera.vanish[0]))
                part.haze = away / np.maximum(beside, np.float32(0.5))
            if item.get("shadow", part.is_thing) and place[1] == 0:
                part.casters = [(shapes, place, scale)]
            parts.append(part)
        return parts

    def _may_occur(self, name: str) -> bool:
        """Whether the classes have what a sprite is of: not its post, nor who rides it."""
        labels = [label for label, _ in read_sprite(name)[1]]
        return self.classes is None or labels[-1 if labels[0] == "pole" else 0] in self.classes

    def _cast(self, part: Part) -> Iterator[Paint]:
        """The shadow of a part on the ground."""
        for shapes, place, scale in part.casters:
            for shape in shapes:
                points = shape.polygons * scale + place
                points += points[..., 1:2] * (self.slant[0], -1.0, self.slant[1])
                if shape.solid and points[..., 2].min() > self.camera.near:
                    yield Paint(self.camera.project(points), (0, 0, 0), True)

    def photograph(self) -> Image.Image:
        """RGB, (W, H). Only sums and products of floats are used, which machines round alike."""
        (height, width), weather = self.size, self.weather
        scale = 3 if height <= 192 else 2
        # The sky from its top to the horizon
        down = np.arange(height, dtype=np.float32)[:, None] / np.float32(self.camera.vanish[1])
        high, low = (np.array(color, np.float32) for color in weather["sky"])
        rows = np.rint(high + (low - high) * np.sqrt(np.minimum(down, 1))).astype(np.uint8)
        canvas = np.repeat(np.tile(rows[:, None], (1, width * scale, 1)), scale, axis=0)
        for part in self.parts:
            for paint in () if part.label.startswith("sky") else part.paints:
                pairs = zip(paint.color, weather["tint"], strict=True)
                color = [min(round(value * tint), 255) for value, tint in pairs]
                fill(canvas, paint, color, scale=scale, origin=(0, 0))
            if part.round:
                self._shade(canvas, part, scale)
        picture = np.asarray(Image.fromarray(canvas).reduce(scale))

        order = draw_order(self.parts, self.size).astype(np.intp)
        numbered = list(enumerate(self.parts, start=1))
        # Fine grain, blotches, depth for the haze, whether it is ground, whether it is sky
        table = np.zeros((5, len(self.parts) + 1), np.float32)
        for number, part in numbered:
            table[:2, number] = self.textures.get(part.label, (0.03, 0.02))
            table[2, number] = part.haze if isinstance(part.haze, float) else 0.0
            table[3:, number] = part.is_ground, part.label.startswith("sky")
        grain, blotches, depth, ground, sky = (np.take(row, order) for row in table)
        for number, part in numbered:
            if not isinstance(part.haze, float):
                np.copyto(depth, np.broadcast_to(part.haze, self.size), where=order == number)
        light = 1 + grain * self._noise(1) + blotches * self._noise(max(height // 48, 2))
        light *= (1 - ground * self._shadow()) * _darken_corners(self.size)
        # What lies far fades into haze, the sky into clouds.
        beyond = np.maximum(depth - np.float32(6), 0)
        faded = beyond / (beyond + np.float32(weather["clear"])) * np.float32(0.75)
        np.copyto(faded, self._clouds() * np.float32(weather["cloudy"]), where=sky > 0)
        kept = (1 - faded) * light
        faded *= light
        tile = min(height, 256)
        # A uniform byte has standard deviation 73.9; 2.4 gray levels are the sensor's noise.
        dice = np.frombuffer(self.chance.randbytes(3 * tile * width), np.uint8)
        noise = (dice.reshape(3, tile, width) - np.float32(127.5)) * np.float32(2.4 / 73.9)
        result = np.empty((height, width, 3), np.uint8)
        for channel in range(3):
            haze, cloud = (np.float32(weather[name][channel]) for name in ("haze", "cloud"))
            plane = picture[..., channel] * kept + faded * np.where(sky > 0, cloud, haze)
            for top in range(0, height, tile):
                strip = plane[top : top + tile]
                strip += noise[channel, : len(strip)]
            result[..., channel] = np.clip(np.rint(plane), 0, 255)
        return Image.fromarray(result)

    def _shade(self, canvas: np.ndarray, part: Part, scale: int) -> None:
        """Darkens the side of a part that the sun does not reach."""
        region = part.region(self.size)
        mask = part.silhouette(region, scale) > 0
        if mask.any():
            x0, y0, x1, y1 = (scale * value for value in region)
            left, _, right, _ = part.box() or (0.0, 0.0, 1.0, 0.0)
            columns = np.arange(x0, x1, dtype=np.float32) / scale
            across = (columns - np.float32(left)) / max(right - left, 1.0)
            away = across if self.sun_side < 0 else 1 - across
            ramp = np.rint(256 - 256 * part.round * away * away).astype(np.uint16)
            target = canvas.reshape(len(canvas), -1)[y0:y1, 3 * x0 : 3 * x1]
            dark = (target * np.repeat(ramp, 3)) >> 8
            np.copyto(target, dark.astype(np.uint8), where=np.repeat(mask, 3, axis=1))

    def _shadow(self) -> np.ndarray:
        """How dark the shadows make the ground, 0..1: float32 (H, W)."""
        cast, contact = np.zeros(self.size, np.uint8), np.zeros(self.size, np.uint8)
        for part in self.parts:
            shadow = list(self._cast(part))
            if shadow:
                for paint in shadow:
                    fill(cast, paint, [255], scale=1, origin=(0, 0))
                left, _, right, bottom = part.box() or (0.0, 0.0, 0.0, 0.0)
                foot = max(float(paint.polygons[..., 1].max()) for paint in shadow)
                center = (int((left + right) * 8), int(min(bottom, foot) * 16))
                axes = (int((right - left) * 8.5), int(max((right - left) * 1.3, 16)))
                cv2.ellipse(contact, center, axes, 0, 0, 360, [255], -1, shift=4)
        total = np.zeros(self.size, np.float32)
        kinds = ((cast, 0.006, self.weather["shadow"]), (contact, 0.014, 0.5))
        for image, blur, strength in kinds:
            lens = ImageFilter.BoxBlur(max(round(blur * self.size[0]), 1))
            soft = Image.fromarray(image).filter(lens)
            dark = np.asarray(soft, np.float32) * np.float32(strength / 255)
            total = total + dark - total * dark
        return total

    def _clouds(self) -> np.ndarray:
        """Smooth noise in three sizes, of which only the crests are clouds: float32 (H, W)."""
        coarse = (max(self.size[1] // 4 + 1, 25), max(self.size[0] // 4 + 1, 50))  # never shrunk
        total = sum(
            self._smooth((cells, 2 * cells), coarse) * np.float32(share)
            for cells, share in ((5, 0.6), (11, 0.28), (25, 0.12))
        )
        crest = np.clip((total - np.float32(127.5)) * np.float32(4), 0, 255).astype(np.uint8)
        cloud = Image.fromarray(crest).resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(cloud, np.float32) / np.float32(255)

    def _noise(self, cell: int) -> np.ndarray:
        """Smooth noise in -1..1 whose bumps are `cell` pixels wide: float32 (H, W)."""
        columns, rows = (-(-side // cell) + 1 for side in self.size[::-1])
        noise = self._smooth((columns, rows), (columns * cell, rows * cell))
        return (noise[: self.size[0], : self.size[1]] - np.float32(127.5)) / np.float32(127.5)

    def _smooth(self, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Random bytes of (columns, rows), enlarged, as all Pillows do alike: float32 (H, W)."""
        grid = Image.frombytes("L", cells, self.chance.randbytes(cells[0] * cells[1]))
        return np.asarray(grid.resize(size, Image.Resampling.BICUBIC), np.float32)


def settle(
    parts: list[Part], size: tuple[int, int], *, least_area: float, least_share: float, void: str
) -> list[Part]:
    """Traces the outlines, leaves out things hardly seen and gives up the class of stuff slivers.

    Args:
        parts: in painter's order, far to near.
        size: (H, W) in pixels.
        least_area: a thing stays if this many of its pixels are visible, ...
        least_share: ... and this share of its outline's area. Stuff of which less than `least_area`
            is visible in all keeps its place, but is labeled `void`: nobody would annotate it.
        void: label of what has no class.
    Returns:
        The parts that stay, in the same order, each with at least one outline.
    """
    for part in parts:
        part.trace(size)
    traced = [part for part in parts if part.outlines]
    kept = []
    for part, visible in zip(traced, count_visible(traced, size), strict=True):
        whole = sum(cv2.contourArea(np.array(outline)) for outline in part.outlines)
        is_stuff = not (part.is_thing or part.is_crowd)
        if is_stuff or visible >= max(least_area, least_share * whole):
            kept.append(part)
    totals: dict[str, int] = {}
    for part, visible in zip(kept, count_visible(kept, size), strict=True):
        totals[part.label] = totals.get(part.label, 0) + visible
    for part in kept:
        if not (part.is_thing or part.is_crowd) and totals[part.label] < least_area:
            part.label = void
    return kept


def count_visible(parts: list[Part], size: tuple[int, int]) -> list[int]:
    """How many pixels of each part no later part covers."""
    return np.bincount(draw_order(parts, size).ravel(), minlength=len(parts) + 1)[1:].tolist()


def draw_order(parts: list[Part], size: tuple[int, int]) -> np.ndarray:
    """Number (1, 2, ...) of the topmost part at each pixel, 0 where there is none: int32 (H, W)."""
    image = Image.new("I", (size[1], size[0]))
    pencil = ImageDraw.Draw(image)
    for number, part in enumerate(parts, start=1):
        for outline in part.outlines:
            pencil.polygon(outline, fill=number)
    return np.asarray(image, dtype=np.int32)


def _area(box: np.ndarray) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])


def _darken_corners(size: tuple[int, int]) -> np.ndarray:
    """A lens's fall-off to 0.88 in the corners: float32 (H, W)."""
    rows = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return 1 - np.float32(0.06) * (rows * rows + columns * columns)
