"""Run-length codes of masks: as pycocotools has them, and none that does not fit its mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from panoptic_dl.core.masks import decode_mask, encode_mask, run_lengths

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


def test_a_code_with_an_empty_run_is_read():
    # 3 + 0 + 3 pixels: pycocotools would write 6.
    odd = {"size": [2, 3], "counts": "303"}
    assert not decode_mask(odd, (2, 3))[:, 0].any()
    assert encode_mask(decode_mask(odd, (2, 3)))["counts"] != odd["counts"]


CODE = encode_mask(np.eye(6, dtype=bool))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ({"size": [6, 6]}, "no run-length code"),
        ([[0, 0, 5, 5]], "encode polygons with"),
        (CODE | {"size": [6, 7]}, "the size of the image file"),
        (CODE | {"counts": CODE["counts"][:-2]}, "it ends too early"),
        (CODE | {"counts": 7}, "its counts are no text"),
        (CODE | {"counts": [30, 5]}, "do not add up"),
        (CODE | {"counts": [40, -4]}, "do not add up"),
    ],
)
def test_a_code_of_another_mask_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(code, (6, 6))
