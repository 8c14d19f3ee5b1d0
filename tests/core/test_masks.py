"""Masks: as pycocotools has them, and none that it would crash on or that does not fit."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from panoptic_dl.core.masks import (
    decode_mask,
    encode_mask,
    encode_segmentation,
    polygon_fault,
    run_lengths,
)

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


@given(masks)
def test_a_mask_comes_back_as_pycocotools_decodes_it(mask):
    code = encode_mask(mask)
    assert np.array_equal(decode_mask(code, mask.shape), mask)
    assert np.array_equal(coco_mask.decode(code), mask)


@given(masks)
def test_lists_of_counts_are_read_as_well(mask):
    column = mask.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column]))).tolist()
    counts = np.diff([0, *edges, mask.size]).tolist()
    assert np.array_equal(
        decode_mask({"size": list(mask.shape), "counts": counts}, mask.shape), mask
    )


@given(masks)
def test_run_lengths_are_a_code_too(mask):
    counts = run_lengths(encode_mask(mask)["counts"])
    assert all(run > 0 for run in counts[1:])
    decoded = coco_mask.decode(
        coco_mask.frPyObjects({"counts": counts, "size": list(mask.shape)}, *mask.shape)
    )
    assert np.array_equal(decoded, mask)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_codes_with_empty_runs_are_read_as_pycocotools_reads_them(runs):
    runs = [*runs, 36 - sum(runs)]
    code = coco_mask.frPyObjects({"size": [4, 9], "counts": runs}, 4, 9)
    expected = coco_mask.decode(code)
    text = {"size": [4, 9], "counts": code["counts"].decode()}
    for kind in (text, {"size": [4, 9], "counts": runs}):
        assert np.array_equal(decode_mask(kind, (4, 9)), expected)
        again = encode_segmentation(kind, (4, 9))
        assert np.array_equal(coco_mask.decode(again), expected)


@given(st.text(st.characters(max_codepoint=160), max_size=12))
def test_any_text_is_a_code_of_the_mask_or_refused(counts):
    try:
        found = decode_mask({"size": [4, 9], "counts": counts}, (4, 9)).shape
    except ValueError as error:
        found = str(error).partition("a mask has a ")[2].partition(":")[0]
    assert found in ((4, 9), "damaged run-length code")


def test_polygons_are_filled_as_pycocotools_fills_them():
    polygons = [[1, 1, 8.5, 1, 8.5, 3.5], [0, 0, 3, 0, 3, 3, 0, 3]]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 4, 9)))
    assert not any(polygon_fault(polygon, (4, 9)) for polygon in polygons)
    assert np.array_equal(decode_mask(encode_segmentation(polygons, (4, 9)), (4, 9)), expected)


@pytest.mark.parametrize(
    ("polygon", "fault"),
    [
        (5, "is 5, not"),
        ([1, 2, 3, 4], "three points or more"),
        ([1, 2, 3, 4, 5, 6, 7], "three points or more"),
        ([1, 2, 3, "4", 5, 6], "'4', 5, 6], not"),
        ([1, 2, 3, True, 5, 6], "True, 5, 6], not"),
        ([1, 2, 3, float("nan"), 5, 6], "coordinate nan, far outside"),
        ([1, 2, 3, 4, float("inf"), 6], "coordinate inf, far outside"),
        ([1, 2, 3, 4, 10**400, 6], "far outside of an image of 9 x 4"),
        ([1, 2, 3, 4, 5, -2e8], "-200000000.0, far outside"),
        ([-90, -40, 99, 44, 5, 6], "^$"),
    ],
)
def test_what_is_no_polygon_is_said_before_pycocotools_sees_it(polygon, fault):
    assert re.search(fault, polygon_fault(polygon, (4, 9)))


CODE = encode_mask(np.eye(6, dtype=bool))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": [6, 6]}, "no run-length code"),
        ([[0, 0, 5, 5]], "encode polygons with"),
        (CODE | {"size": [6, 7]}, "the size of the image file"),
        (CODE | {"size": 6}, "a mask is 6, the image"),
        (CODE | {"counts": CODE["counts"] + "1"}, "do not add up"),
        (CODE | {"counts": [30, "6"]}, "do not add up"),
        (CODE | {"counts": [30, 5.5, 0.5]}, "do not add up"),
        (CODE | {"counts": [30, None]}, "do not add up"),
        (CODE | {"counts": CODE["counts"][:-2]}, "do not add up"),
        (CODE | {"counts": "b"}, "it ends too early"),
        (CODE | {"counts": 36}, "do not add up"),
        (CODE | {"counts": [30, 5]}, "do not add up"),
        (CODE | {"counts": [40, -4]}, "do not add up"),
    ],
)
def test_a_code_of_another_mask_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(code, (6, 6))
