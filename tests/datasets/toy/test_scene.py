"""What stays of a scene, and how much of a picture haze may take."""

import numpy as np
import pytest

from panoptic_dl.datasets.toy.canvas import Layer, rectangle
from panoptic_dl.datasets.toy.scene import WEATHERS, Part, Room, _count_visible, settle

SIZE = (40, 60)


def block(label: str, left: int, top: int, right: int, bottom: int, *, thing: bool = True) -> Part:
    layer = Layer(SIZE, (left, top, right, bottom), scale=2)
    layer.polygon(rectangle(left, top, right, bottom), (200, 100, 50))
    return Part(label, layer, 1.0, is_thing=thing)


def settled(*parts: Part) -> list[str]:
    kept = settle(list(parts), SIZE, least_area=20, least_share=0.4, void="unlabeled")
    return [part.label for part in kept]


def test_hidden_and_small_things_are_dropped() -> None:
    sky = block("sky", 0, 0, 60, 40, thing=False)
    assert settled(sky, block("car", 10, 10, 30, 30)) == ["sky", "car"]
    assert settled(sky, block("car", 10, 10, 13, 13)) == ["sky"]
    # 30 % of the first car is visible, then 70 %.
    assert settled(sky, block("car", 10, 10, 30, 30), block("bus", 16, 5, 35, 35)) == ["sky", "bus"]
    assert settled(sky, block("car", 10, 10, 30, 30), block("bus", 24, 5, 35, 35)) == [
        "sky",
        "car",
        "bus",
    ]


def test_slivers_of_stuff_lose_their_class() -> None:
    road = block("road", 0, 0, 60, 40, thing=False)
    assert settled(road, block("fence", 5, 5, 8, 8, thing=False)) == ["road", "unlabeled"]
    # Together they are large enough.
    fences = [block("fence", 5 + 10 * k, 5, 8 + 10 * k, 8, thing=False) for k in range(4)]
    assert settled(road, *fences) == ["road"] + ["fence"] * 4


def test_outline_is_the_coverage() -> None:
    part = block("car", 10, 10, 30, 30)
    settle([part], SIZE, least_area=1, least_share=0, void="")
    # Half a subpixel is gained on each side.
    assert part.layer.coverage().sum() == pytest.approx(20.5**2, rel=0.05)
    assert _count_visible([part], SIZE) == [part.layer.coverage().sum()]


def test_a_thing_is_one_piece() -> None:
    part = block("car", 10, 10, 20, 20)
    layer = Layer(SIZE, (0, 0, 60, 40), scale=2)
    for left in (10, 40):
        layer.polygon(rectangle(left, 10, left + left // 2, 20), (1, 2, 3))
    part.layer = layer
    settle([part], SIZE, least_area=1, least_share=0, void="")
    assert len(part.outlines) == 1
    assert layer.coverage()[:, :35].sum() == 0
    assert layer.coverage()[:, 35:].sum() >= 200


def test_room_is_taken_once() -> None:
    room = Room(SIZE)
    assert room.claim([block("car", 10, 10, 30, 30)], overlap=0.3)
    assert not room.claim([block("car", 12, 12, 32, 32)], overlap=0.3)
    assert room.claim([block("car", 26, 10, 46, 30)], overlap=0.3)
    assert not room.claim([], overlap=0.3)


@pytest.mark.parametrize("weather", WEATHERS)
def test_haze_grows_with_depth(weather: str) -> None:
    haze = WEATHERS[weather].haze_on(np.array([0, 6, 20, 60, 1e9], dtype=np.float32))
    assert haze.dtype == np.float32
    assert haze[0] == haze[1] == 0
    assert (np.diff(haze[1:]) > 0).all()
    assert haze[-1] <= 0.7
