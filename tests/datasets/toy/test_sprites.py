"""Sprites: what of SVG is read, against OpenCV's own shapes, and how it is seen."""

import itertools
import random
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from panoptic_dl.datasets.toy import sprites
from panoptic_dl.datasets.toy.scene import read_layouts
from panoptic_dl.datasets.toy.sprites import ASSETS, Camera, Paint, draw_sprite, fill, read_sprite

CAMERA = Camera((100, 200), 100.0, (100.0, 50.0), 1.5, 0.0, 1.0)


@pytest.fixture
def asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sprite and draws its parts."""
    monkeypatch.setattr(sprites, "ASSETS", tmp_path)
    read_sprite.cache_clear()

    def draw(body: str, seed: int = 0, along: bool = False) -> list[Paint]:
        name = f"s{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.svg").write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg"><g data-label="a">{body}</g></svg>'
        )
        colors = {"coat": ["#102030", "#405060"]}
        drawn = draw_sprite(name, random.Random(seed), colors, sun_side=1, along=along)
        return [paint for _, paints in drawn for paint in paints]

    return draw


def raster(shapes: list[Paint]) -> np.ndarray:
    """Shapes on the plane z = 0, of 2 x 2 m with the foot at the lower left: bool (200, 200)."""
    image = np.zeros((200, 200), np.uint8)
    for shape in shapes:
        pixels = shape.polygons[..., :2] * (100, -100) + (0, 200)
        fill(image, Paint(pixels, (0, 0, 0), True), [1], scale=1, origin=(0, 0))
    return image > 0


@pytest.mark.parametrize(
    ("body", "draw"),
    [
        ('<rect x="20" y="-120" width="60" height="80" fill="#000000"/>',
         lambda i: cv2.rectangle(i, (20, 80), (79, 159), 1, -1)),
        ('<circle cx="90" cy="-100" r="50" fill="#000000"/>',
         lambda i: cv2.circle(i, (90, 100), 50, 1, -1)),
        ('<ellipse cx="90" cy="-100" rx="70" ry="30" fill="#000000"/>',
         lambda i: cv2.ellipse(i, (90, 100), (70, 30), 0, 0, 360, 1, -1)),
        ('<circle cx="90" cy="-100" r="50" fill="none" stroke="#000000" stroke-width="30"/>',
         lambda i: cv2.circle(i, (90, 100), 50, 1, 29)),
        ('<polyline points="20,-180 100,-40 180,-60" fill="none" stroke="#000000" '
         'stroke-width="30"/>',
         lambda i: cv2.polylines(i, [np.array([[20, 20], [100, 160], [180, 140]])], False, 1, 30)),
        ('<path d="M20 -180 L100 -40 180 -40 L180 -180 Z" fill="#000000"/>',
         lambda i: cv2.fillPoly(i, [np.array([[20, 20], [100, 160], [180, 160], [180, 20]])], 1)),
    ],
)  # fmt: skip
def test_shapes_are_those_of_opencv(asset, body, draw) -> None:
    own = raster(asset(body))
    other = draw(np.zeros((200, 200), np.uint8)) > 0
    assert (own & other).sum() / (own | other).sum() > 0.94


def test_curves_are_bezier_curves(asset) -> None:
    """Points of C and Q against de Casteljau's construction."""

    def casteljau(points: list[tuple[float, float]], t: float) -> np.ndarray:
        level = [np.array(point, float) for point in points]
        while len(level) > 1:
            level = [a + (b - a) * t for a, b in itertools.pairwise(level)]
        return level[0]

    cubic = [(0, 0), (10, -80), (90, -80), (100, 0)]
    quadratic = [(100, 0), (60, 50), (0, 0)]
    body = '<path d="M0 0 C10 -80 90 -80 100 0 Q60 50 0 0 Z" fill="#000000"/>'
    (shape,) = asset(body)
    found = shape.polygons[0, :, :2] * (100, -100)
    for control, part in ((cubic, found[1:9]), (quadratic, found[9:17])):
        expected = [casteljau(control, k / 8) for k in range(1, 9)]
        np.testing.assert_allclose(part, expected, atol=1e-9)


def test_planes_lie_in_space(asset) -> None:
    dot = '<polygon points="100,-200 101,-200 100,-201" fill="#000000" data-plane="{}"/>'
    for plane, corner in {
        "front 30": (1, 2, 0.3),
        "side 30": (0.3, 2, 1),
        "top 30": (1, 0.3, 2),
        "lean 10 20 30 60": (1, 0.5, 1.0),
    }.items():
        (shape,) = asset(dot.format(plane))
        np.testing.assert_allclose(shape.polygons[0, 0], corner, atol=1e-12)
        (turned,) = asset(dot.format(plane), along=True)
        np.testing.assert_allclose(turned.polygons[0, 0], corner[::-1], atol=1e-12)


def test_repeats_choices_and_chance(asset) -> None:
    rect = '<rect x="0" y="-10" width="10" height="10" fill="#000000"{}/>'
    repeated = rect.format(' data-repeat="4 0 -30"{}')
    (shape,) = asset(f'<g data-repeat="3 20 0">{repeated.format("")}</g>')
    lows = shape.polygons.min(axis=1)[:, :2].round(3)
    found = {(float(x), float(y)) for x, y in lows}
    assert found == {(k / 5, round(0.3 * n, 3)) for k in range(3) for n in range(4)}
    thinned = repeated.format(' data-chance="0.5"')
    counts = [sum(len(s.polygons) for s in asset(thinned, seed)) for seed in range(9)]
    assert 0 <= min(counts) < max(counts) <= 4
    choice = f'<g data-choice="">{rect.format("")}<circle r="5" fill="#ffffff"/></g>'
    assert {asset(choice, seed)[0].color for seed in range(9)} == {(0, 0, 0), (255, 255, 255)}
    maybe = f'<g data-chance="0.5">{rect.format("")}</g>'
    assert {len(asset(maybe, seed)) for seed in range(9)} == {0, 1}


def test_a_palette_gives_one_color_to_one_sprite(asset) -> None:
    rect = '<rect x="0" y="-10" width="10" height="10" class="coat" {}/>'
    for seed in range(5):
        plain, dark = asset(rect.format("") + rect.format('data-shade="0.5"'), seed)
        assert plain.color in ((16, 32, 48), (64, 80, 96))
        assert dark.color == tuple(value // 2 for value in plain.color)


def test_what_is_too_near_is_cut() -> None:
    """A strip of ground from behind the camera to 50 m ends where z is `near`."""
    strip = np.array([[[-1, 0, -5], [1, 0, -5], [1, 0, 50], [-1, 0, 50]]], float)
    (paint,) = CAMERA.see([Paint(strip, (0, 0, 0), True)], np.zeros(3), np.ones(3))
    corners = {(round(x, 6), round(y, 6)) for x, y in paint.polygons[0]}
    assert corners == {(0.0, 200.0), (200.0, 200.0), (102.0, 53.0), (98.0, 53.0)}
    assert not CAMERA.see([Paint(strip, (0, 0, 0), True)], np.array([0, 0, -60.0]), np.ones(3))


@pytest.mark.parametrize("file", sorted(ASSETS.glob("*.svg")), ids=lambda file: file.stem)
def test_every_sprite_can_be_drawn(file: Path) -> None:
    root = ElementTree.parse(file).getroot()
    assert root.get("viewBox")
    own = "mirror lies round length label plane shade decal repeat chance choice"
    known = {"viewBox", "id", "class", "fill", "stroke", "stroke-width", "d", "points", "x1", "y1"}
    known |= {"x2", "y2", "cx", "cy", "r", "rx", "ry", "x", "y", "width", "height"}
    known |= {f"data-{word}" for word in own.split()}
    for element in root.iter():
        assert element.attrib.keys() <= known, element.attrib
    colors = read_layouts()["colors"]
    drawn = draw_sprite(file.stem, random.Random(0), colors, sun_side=1, along=False)
    assert [label for label, _ in drawn] == [label for label, _ in read_sprite(file.stem)[1]]
    assert any(shape.solid for _, shapes in drawn for shape in shapes)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('<rect x="0" width="9" height="9" class="caot"/>', "invalid literal"),
        ('<text fill="#ffffff"/>', "cannot use <text>"),
        ('<path d="m0 0 l9 9 z" fill="#ffffff"/>', "path cannot use m"),
    ],
)
def test_what_a_sprite_cannot_hold(asset, body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asset(body)


def test_assets_stay_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 300_000
