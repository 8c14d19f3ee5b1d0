"""What stays of a scene, what light does to it, and how long a large one takes."""

import copy
import itertools
import re
import time

import numpy as np
import pytest

from panoptic_dl.datasets.toy.cityscapes import ALL_CLASSES, compose_street
from panoptic_dl.datasets.toy.scene import (
    Part,
    Scene,
    count_visible,
    draw_order,
    read_layouts,
    sample_random,
    settle,
)
from panoptic_dl.datasets.toy.sprites import Paint

SIZE = (40, 60)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def block(label: str, *boxes: tuple[float, float, float, float], thing: bool = True) -> Part:
    polygons = np.stack([rectangle(*box) for box in boxes])
    return Part(label, [Paint(polygons, (200, 100, 50), True)], 1.0, is_thing=thing)


def settled(*parts: Part) -> list[str]:
    kept = settle(list(parts), SIZE, least_area=20, least_share=0.4, void="unlabeled")
    return [part.label for part in kept]


def sky() -> Part:
    return block("sky", (-1, -1, 61, 41), thing=False)


def test_hidden_and_small_things_are_dropped() -> None:
    assert settled(sky(), block("car", (10, 10, 30, 30))) == ["sky", "car"]
    assert settled(sky(), block("car", (10, 10, 13, 13))) == ["sky"]
    # 30 % of the first car is visible, then 70 %.
    car, bus = block("car", (10, 10, 30, 30)), block("bus", (16, 5, 35, 35))
    assert settled(sky(), car, bus) == ["sky", "bus"]
    car, bus = block("car", (10, 10, 30, 30)), block("bus", (24, 5, 35, 35))
    assert settled(sky(), car, bus) == ["sky", "car", "bus"]


def test_slivers_of_stuff_lose_their_class() -> None:
    fence = block("fence", (5, 5, 8, 8), thing=False)
    assert settled(sky(), fence) == ["sky", "unlabeled"]
    # Together they are large enough.
    fences = [block("fence", (5 + 10 * k, 5, 8 + 10 * k, 8), thing=False) for k in range(4)]
    assert settled(sky(), *fences) == ["sky"] + ["fence"] * 4


def test_outline_is_what_is_covered() -> None:
    part = block("car", (10, 10, 30, 30))
    settle([part], SIZE, least_area=1, least_share=0, void="")
    mask = part.silhouette((0, 0, 60, 40), 4)
    assert (mask > 0).sum() / 16 == pytest.approx(20**2, rel=0.03)
    assert count_visible([part], SIZE)[0] == pytest.approx(20**2, abs=42)


def test_a_thing_in_two_pieces_is_left_out_and_a_crowd_is_not() -> None:
    boxes = (5, 10, 10, 20), (40, 10, 55, 20)
    assert settled(sky(), block("car", *boxes)) == ["sky"]
    crowd = block("cargroup", *boxes, thing=False)
    crowd.is_crowd = True
    assert settled(sky(), crowd) == ["sky", "cargroup"]
    assert len(crowd.outlines) == 2


def test_layouts_use_colors_and_sprites_that_exist() -> None:
    """Every place can be drawn with every choice of chance; unknown names raise KeyError."""
    for place in read_layouts()["places"]:
        for index in range(6):
            assert Scene(place, sample_random(1, place, index), (48, 96), things=(), void="").parts


@pytest.mark.parametrize("place", read_layouts()["places"])
def test_layouts_use_keys_that_exist(place: str) -> None:
    layout = read_layouts()["places"][place]
    keys = "weather camera least empty backdrop groups things front"
    assert layout.keys() <= set(keys.split())
    assert layout["weather"].keys() <= read_layouts()["weathers"].keys()
    keys = "sprite either x y z across frame side count chance size along row overlap crowd"
    keys += " members step label shadow"
    groups = layout.get("groups", {})
    lists = [layout["backdrop"], layout["things"], layout.get("front", []), *groups.values()]
    for item in itertools.chain(*lists):
        assert item.keys() <= set(keys.split()), item
        assert item.get("either", {}).keys() <= groups.keys(), item
        assert "row" not in item or isinstance(item["sprite"], list), item


def test_palettes_are_colors() -> None:
    colors = itertools.chain(*read_layouts()["colors"].values())
    assert not [color for color in colors if not re.fullmatch("#[0-9a-f]{6}", color)]


def brightness_of_road(shadow: float, index: int) -> float:
    """Mean brightness of the road of a street, at this strength of shadows."""
    scene = compose_street(sample_random(0, "train", index), (96, 192))
    scene.weather = {**scene.weather, "shadow": shadow}
    roads = [n for n, part in enumerate(scene.parts, start=1) if part.label == "road"]
    on_road = np.isin(draw_order(scene.parts, (96, 192)), roads)
    return float(np.asarray(scene.photograph())[on_road].mean())


def test_shadows_darken_the_ground() -> None:
    gains = [brightness_of_road(0.0, k) - brightness_of_road(0.9, k) for k in range(6)]
    assert min(gains) > -0.1
    assert max(gains) > 1


def test_haze_grows_with_depth() -> None:
    """On the road, whose rows are its depth, blue haze at 30 instead of at a million meters."""
    pictures = []
    for clear in (30, 1e6):
        scene = compose_street(sample_random(0, "train", 0), (64, 128))
        scene.weather = {**scene.weather, "haze": [0, 0, 255], "clear": clear}
        pictures.append(np.asarray(scene.photograph(), float))
    roads = [n for n, part in enumerate(scene.parts, start=1) if part.label == "road"]
    rows, columns = np.nonzero(np.isin(draw_order(scene.parts, (64, 128)), roads))
    more = (pictures[0] - pictures[1])[rows, columns, 2]
    means = [more[rows == row].mean() for row in range(rows.min() + 2, 60, 8)]
    assert means == sorted(means, reverse=True)
    assert means[0] > 20 > 10 > means[-1]


def test_the_ground_has_no_holes() -> None:
    """Nothing but ground and what stands on it lies below the horizon."""
    for index in range(8):
        scene = compose_street(sample_random(0, "train", index), (96, 192), ALL_CLASSES)
        below = int(scene.camera.vanish[1]) + 5
        shown = set(np.unique(draw_order(scene.parts, (96, 192))[below:]).tolist())
        assert 0 not in shown
        assert "sky" not in {scene.parts[number - 1].label for number in shown}


def test_a_large_street_of_many_things_is_drawn_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """1024 x 2048: about 0.5 s; the least CPU time of a few, for other programs run beside."""
    crowded = copy.deepcopy(read_layouts())
    people = {"sprite": "person_walk", "count": {110: 1}, "x": [-7, 7], "z": [12, 30], "overlap": 1}
    crowded["places"]["street"]["things"].append(people)
    monkeypatch.setattr("panoptic_dl.datasets.toy.scene.read_layouts", lambda: crowded)
    seconds, things = [], 0
    for index in range(4):
        begin = time.process_time()
        scene = compose_street(sample_random(0, "train", index), (1024, 2048), ALL_CLASSES)
        scene.photograph()
        seconds.append(time.process_time() - begin)
        things = max(things, sum(part.is_thing for part in scene.parts))
    assert things >= 25
    assert min(seconds) < 1.5
