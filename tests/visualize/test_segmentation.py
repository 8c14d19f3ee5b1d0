"""Drawings of predictions: every segment is visible, labels keep apart and inside, at any size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from panoptic_dl.visualize.overlays import draw_centers, draw_offsets
from panoptic_dl.visualize.segmentation import (
    SegmentDrawer,
    SegmentTable,
    _place_labels,
)
from panoptic_dl.visualize.style import instance_color

COLORS = ((200, 0, 0), (0, 200, 0), (10, 10, 60))

NAMES = ("road", "tree-merged", "car")

MAPS = arrays(
    np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 9)
)


def drawer(**options):
    options = {"names": NAMES, "colors": COLORS, "thing_ids": (2,), "label_divisor": 10, **options}
    return SegmentDrawer(**options)


def grey(*size):
    return np.full((*size, 3), 100, np.uint8)


@given(MAPS, st.sampled_from([0, 300, 1 << 22]))
def test_a_table_holds_what_the_map_does(labels, offset):
    labels = np.where(labels < 0, -1, labels + offset)
    table = SegmentTable.of(labels)
    ids, areas = np.unique(labels, return_counts=True)
    assert table.ids.tolist() == ids.tolist()
    assert table.areas.tolist() == areas.tolist()
    assert np.array_equal(table.ids[table.index], labels)
    colors = np.random.default_rng(0).integers(0, 256, (len(ids), 3), dtype=np.uint8)
    assert np.array_equal(table.paint(colors), colors[table.index])
    wanted = ids % 2 == 0
    assert np.array_equal(table.mask_of(wanted) > 0, labels % 2 == 0)
    for label, (left, top, right, bottom) in zip(ids, table.boxes(), strict=True):
        rows, columns = np.nonzero(labels == label)
        assert (top, bottom) == (rows.min(), rows.max() + 1)
        assert (left, right) == (columns.min(), columns.max() + 1)


def test_more_segments_than_a_byte_can_count():
    labels = np.arange(40 * 50, dtype=np.int32).reshape(40, 50)
    table = SegmentTable.of(labels)
    assert table.index.dtype == np.uint16
    colors = np.arange(2000 * 3).reshape(2000, 3).astype(np.uint8)
    assert np.array_equal(table.paint(colors), colors[labels])
    assert table.mask_of(np.arange(2000) == 77).sum() == 255
    many = drawer(names=["a"] * 3, label_divisor=1000)
    assert many.panoptic(grey(40, 50), labels).shape == (40, 50, 3)


def test_edges_lie_between_segments():
    labels = np.zeros((8, 8), np.int32)
    labels[:, 4:] = 1
    assert np.nonzero(SegmentTable.of(labels).edges().any(axis=0))[0].tolist() == [4]
    assert SegmentTable.of(labels).edges(3).any(axis=0).sum() == 3
    assert not SegmentTable.of(np.zeros((3, 3), np.int32)).edges().any()


def test_classes_have_their_colors_and_instances_shades_of_them():
    panoptic = np.zeros((60, 90), np.int32)
    panoptic[:, 30:60], panoptic[:, 60:] = 21, 22
    picture = drawer(opacity=1.0, labels=False).panoptic(grey(60, 90), panoptic)
    assert tuple(picture[30, 10]) == COLORS[0]
    shades = {tuple(picture[30, 45]), tuple(picture[30, 75])}
    assert shades == {tuple(instance_color(np.uint8(COLORS[2]), n)) for n in (1, 2)}
    assert len(shades) == 2
    assert (picture[30, 30] > 180).all()  # a bright outline of things
    void = drawer(opacity=0.6, labels=False).panoptic(grey(6, 6), np.full((6, 6), -1, np.int32))
    assert (void == 40).all()


def test_only_things_have_color_among_instances():
    panoptic = np.zeros((60, 90), np.int32)
    panoptic[:, 45:] = 21
    image = np.zeros((60, 90, 3), np.uint8)
    image[..., 0] = 200
    picture = drawer(labels=False).instances(image, panoptic)
    assert len(set(picture[30, 10].tolist())) == 1  # grey
    assert len(set(picture[30, 80].tolist())) > 1


def test_the_image_is_not_changed():
    image, panoptic = grey(64, 64), np.full((64, 64), 21, np.int32)
    drawer().panoptic(image, panoptic)
    drawer().instances(image, panoptic)
    drawer().semantic(image, panoptic // 10)
    draw_centers(image, np.ones((64, 64), np.float32))
    draw_offsets(image, np.ones((2, 64, 64), np.float32), np.full((64, 64), 255, np.uint8))
    assert (image == 100).all()


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(0, 2**32 - 1),
    st.integers(1, 25),
    st.integers(4, 40),
)
def test_labels_never_meet_nor_leave_the_picture(height, width, seed, number, size):
    chance = np.random.default_rng(seed)
    index = np.zeros((height, width), np.uint8)
    for segment in range(1, number):
        y, x = chance.integers(height), chance.integers(width)
        index[y : y + chance.integers(1, 90), x : x + chance.integers(1, 90)] = segment
    wanted = [(s, (size, int(chance.integers(1, 150)))) for s in range(number)]
    taken = [((0, 0), (min(10, height), min(10, width)))]
    places = _place_labels(index, wanted, taken)
    boxes = [(0, 0, min(10, height), min(10, width))]
    for place, (_, (high, wide)) in zip(places, wanted, strict=True):
        if place is not None:
            boxes.append((*place, place[0] + high, place[1] + wide))
    for number, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= height
        assert 0 <= box[1] < box[3] <= width
        assert not any(overlap(box, other) for other in boxes[:number])


def test_a_label_stands_in_its_segment_where_that_is_widest():
    ring = np.zeros((200, 300), np.uint8)
    ring[40:160, 60:200] = 1  # the ring's centre of mass is not in the ring
    (ring_place, inner) = _place_labels(ring, [(0, (14, 60)), (1, (14, 60))])
    assert ring[ring_place[0] + 7, ring_place[1] + 30] == 0
    assert ring_place[1] >= 195  # the right side of the ring is the wide one
    assert ring[inner[0] : inner[0] + 14, inner[1] : inner[1] + 60].all()


def test_labels_that_find_no_room_stand_beside_or_fall_out():
    index = np.zeros((100, 100), np.uint8)
    index[40:44, 40:60] = 1
    blocking = [((41, 0), (2, 100))]
    (place,) = _place_labels(index, [(1, (12, 40))], blocking)
    assert place == (27, 29)  # above it, in the middle
    assert _place_labels(index, [(1, (12, 40))], [((20, 0), (50, 100))]) == [None]
    assert _place_labels(index, [(1, (12, 101))]) == [None]
    assert _place_labels(index, [(9, (5, 5))]) == [None]  # a segment that is not there


def test_scores_stand_behind_things_where_they_are_wanted(monkeypatch):
    written = []
    monkeypatch.setattr(
        "panoptic_dl.visualize.segmentation.draw_text_boxes",
        lambda picture, boxes: written.extend(box.text for box, *_ in boxes) or picture,
    )
    panoptic = np.zeros((300, 600), np.int32)
    panoptic[:, 200:400], panoptic[:, 400:] = 10, 21
    drawer(scores=True).panoptic(grey(300, 600), panoptic, {21: 0.876}, caption="hello")
    assert sorted(written) == ["car 0.88", "hello", "road", "tree"]
    written.clear()
    drawer().panoptic(grey(300, 600), panoptic, {21: 0.876})
    assert sorted(written) == ["car", "road", "tree"]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (64, 64), (20, 3000), (3000, 20), (3000, 4000)])
def test_every_size_is_drawn(size):
    panoptic = np.zeros(size, np.int32)
    panoptic[size[0] // 2 :] = 21
    picture = drawer().panoptic(grey(*size), panoptic, {21: 1.0}, caption="panoptic")
    assert picture.shape == (*size, 3)
    center = np.zeros(size, np.float32)
    things = SegmentTable.of(panoptic).mask_of(np.array([False, True][-len(np.unique(panoptic)) :]))
    assert draw_centers(grey(*size), center).shape == (*size, 3)
    assert draw_offsets(grey(*size), np.zeros((2, *size), np.float32), things).shape == (*size, 3)


def test_the_legend_counts_things_that_are_no_specks():
    panoptic = np.zeros((200, 200), np.int32)
    panoptic[:50], panoptic[50:99, :40], panoptic[50:99, 50:90], panoptic[150] = -1, 21, 22, 10
    panoptic[199, :3] = 23  # pixels of 40,000
    table = SegmentTable.of(panoptic)
    expected = [("road", COLORS[0]), ("tree", COLORS[1]), ("car (2)", COLORS[2])]
    assert drawer().legend(table, table.ids) == expected
    panoptic[199, :4] = 23
    table = SegmentTable.of(panoptic)
    assert drawer().legend(table, table.ids)[2] == ("car (3)", COLORS[2])
    assert drawer().legend(table, np.where(table.ids == 22, -1, table.ids))[2][0] == "car (2)"
    semantic = SegmentTable.of(panoptic // 10)
    assert drawer().legend(semantic, semantic.ids * 10) == [
        ("road", COLORS[0]),
        ("tree", COLORS[1]),
        ("car", COLORS[2]),
    ]


def test_specks_have_no_outline():
    panoptic = np.zeros((200, 200), np.int32)
    panoptic[100, 100:103] = 21
    faint = drawer().panoptic(grey(200, 200), panoptic)[100, 101]
    panoptic[100, 100:104] = 21
    bright = drawer().panoptic(grey(200, 200), panoptic)[100, 101]
    assert (bright > faint.astype(int) + 20).any()


def draw(panoptic, opacity=1.0):
    image = np.full((*panoptic.shape, 3), 100, np.uint8)
    drawer = SegmentDrawer(
        names=("building", "car"),
        colors=COLORS[:2],
        thing_ids=[1],
        label_divisor=1000,
        opacity=opacity,
    )
    return drawer.panoptic(image, panoptic)


def test_stuff_has_its_class_color_and_instances_have_shades():
    panoptic = np.zeros((9, 30), np.int64)
    panoptic[:, 10:20], panoptic[:, 20:] = 1001, 1002
    picture = draw(panoptic)
    assert tuple(picture[4, 5]) == (200, 0, 0)
    first, second = picture[4, 15], picture[4, 25]
    assert tuple(first) == tuple(instance_color(np.uint8(COLORS[1]), 1))
    assert tuple(first) != tuple(second)
    assert (picture[:, 10] > picture[4, 12]).any()  # an outline between segments


def test_void_keeps_the_image_darkened():
    picture = draw(np.full((6, 6), -1), opacity=0.6)
    assert (picture == 40).all()


@pytest.mark.parametrize("panoptic", [np.full((1, 1), 1001), np.arange(12).reshape(3, 4) + 1000])
def test_tiny_segments_draw(panoptic):
    assert draw(panoptic).shape == (*panoptic.shape, 3)


def test_large_segments_are_named_inside_themselves():
    ring = np.zeros((120, 160), np.int64)
    ring[30:90, 40:120] = -1  # the ring's centre of mass is not in the ring
    picture = draw(ring)
    text = (picture > 240).all(axis=-1)
    assert text.any()
    assert not text[32:88, 42:118].any()
