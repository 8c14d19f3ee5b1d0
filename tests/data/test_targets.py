"""Targets equal those of Detectron2's generator in every number."""

import numpy as np
import pytest
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.data.targets import PanopticTargets

NUM_CLASSES, THINGS = 8, [1, 3, 5]


@st.composite
def labels(draw):
    """Ids of a label and its segments: crowds, cropped ones, single pixels, void."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    number = draw(st.integers(0, 8))
    ids = draw(st.lists(st.integers(0, 256**3 - 1), min_size=number, max_size=number, unique=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    panoptic = np.zeros((height, width), np.int32)  # 0 may be a segment's id, too
    for segment in ids:
        kind = draw(st.sampled_from(["box", "pixel", "scattered", "none", "everything"]))
        y, x = random.integers(height), random.integers(width)
        if kind == "box":
            panoptic[y : y + random.integers(1, 12), x : x + random.integers(1, 12)] = segment
        elif kind == "pixel":
            panoptic[y, x] = segment
        elif kind == "scattered":
            panoptic[random.random(panoptic.shape) < 0.2] = segment
        elif kind == "everything":
            panoptic[:] = segment
    segments = [
        {
            "id": segment,
            "category_id": int(random.integers(NUM_CLASSES)),
            "iscrowd": draw(st.sampled_from([0, 0, 0, 1, True, False])),
        }
        for segment in ids
    ]
    return panoptic, segments


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[key].dtype == value.dtype, key
            assert ours[key].shape == value.shape, key
            assert torch.equal(ours[key], value), key
        else:
            assert ours[key] == value, key


@settings(max_examples=100, deadline=None)
@given(
    label=labels(),
    sigma=st.integers(1, 10),
    ignore_stuff=st.booleans(),
    ignore_crowd=st.booleans(),
    small_area=st.sampled_from([0, 1, 2, 30, 4096]),
    small_weight=st.sampled_from([1, 3, 7]),
    ignore_label=st.sampled_from([255, 254, 9]),
    things=st.sampled_from([THINGS, [], list(range(NUM_CLASSES))]),
)
def test_targets_equal_detectron2s(
    label, sigma, ignore_stuff, ignore_crowd, small_area, small_weight, ignore_label, things
):
    numbers = {
        "ignore_label": ignore_label,
        "thing_ids": things,
        "sigma": sigma,
        "ignore_stuff_in_offset": ignore_stuff,
        "small_instance_area": small_area,
        "small_instance_weight": small_weight,
        "ignore_crowd_in_semantic": ignore_crowd,
    }
    panoptic, segments = label
    theirs = PanopticDeepLabTargetGenerator(**numbers)(panoptic, segments)
    ours = PanopticTargets(**numbers)
    assert_equal(ours(panoptic, segments), theirs)
    assert_equal(ours(panoptic.astype(np.uint32), segments), theirs)


def targets(**changes):
    numbers = {
        "ignore_label": 255,
        "thing_ids": THINGS,
        "sigma": 8,
        "ignore_stuff_in_offset": True,
        "small_instance_area": 4096,
        "small_instance_weight": 3,
        "ignore_crowd_in_semantic": False,
    }
    numbers |= changes
    return PanopticTargets(**numbers), PanopticDeepLabTargetGenerator(**numbers)


def test_targets_of_a_whole_crop_with_many_segments():
    random = np.random.default_rng(0)
    panoptic = np.zeros((512, 1024), np.int32)
    segments = []
    for number in range(120):
        y, x, h, w = random.integers(0, 500), random.integers(0, 1000), *random.integers(1, 200, 2)
        panoptic[y : y + h, x : x + w] = 1000 + 37 * number
        segments.append({"id": 1000 + 37 * number, "category_id": number % 8, "iscrowd": 0})
    ours, theirs = targets()
    assert_equal(ours(panoptic, segments), theirs(panoptic, segments))


def test_a_thousand_segments():
    random = np.random.default_rng(0)
    panoptic = np.kron(np.arange(1, 1025).reshape(32, 32), np.ones((4, 6), np.int32))
    panoptic = panoptic.astype(np.int32)
    panoptic[random.random(panoptic.shape) < 0.1] = 0
    segments = [
        {"id": number, "category_id": number % 8, "iscrowd": int(number % 50 == 0)}
        for number in range(1, 1025)
    ]
    ours, theirs = targets(small_instance_area=20)
    assert_equal(ours(panoptic, segments), theirs(panoptic, segments))


def test_a_segment_of_exactly_the_limit_is_not_small():
    panoptic = np.zeros((3, 7), np.int32)
    segments = []
    for row, area in enumerate((5, 6, 7)):
        panoptic[row, :area] = 10 + row
        segments.append({"id": 10 + row, "category_id": THINGS[0], "iscrowd": 0})
    ours, theirs = targets(small_instance_area=6)
    made = ours(panoptic, segments)
    assert made["sem_seg_weights"][:, 0].tolist() == [3, 1, 1]
    assert_equal(made, theirs(panoptic, segments))


@pytest.mark.parametrize("corner", [(0, 0), (0, 29), (19, 0), (19, 29)])
def test_peaks_are_cut_at_every_border(corner):
    panoptic = np.zeros((20, 30), np.int32)
    panoptic[corner] = 5
    segments = [{"id": 5, "category_id": 1, "iscrowd": 0}]
    ours, theirs = targets()
    made = ours(panoptic, segments)
    assert made["center"][corner] == 1
    assert_equal(made, theirs(panoptic, segments))
