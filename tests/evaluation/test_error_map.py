"""What became of each pixel, against the definition pixel by pixel and against panoptic quality."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.error_map import (
    FALSE_POSITIVE,
    MISMATCHED,
    MISSED,
    NOT_COUNTED,
    OUTLINE,
    PANOPTIC_KINDS,
    RIGHT,
    WRONG,
    panoptic_error_map,
    semantic_error_map,
)
from panoptic_dl.evaluation.panoptic import match_segments
from tests.evaluation.panoptic_scenes import NUM_CLASSES
from tests.evaluation.scenes import DIVISOR, PanopticScene, panoptic_scene


def compare(scene: PanopticScene):
    matches = match_segments(
        scene.truth, scene.segments, scene.panoptic, num_classes=NUM_CLASSES, label_divisor=DIVISOR
    )
    return matches, panoptic_error_map(scene.truth, scene.segments, scene.panoptic, matches)


def by_definition(scene: PanopticScene, matches, y: int, x: int) -> int:
    """The docstring of `panoptic_error_map`, for one pixel."""
    true, predicted = int(scene.truth[y, x]), int(scene.panoptic[y, x])
    counted = {segment["id"] for segment in scene.segments if not segment["iscrowd"]}
    pairs = {tuple(pair) for pair in matches.pairs.tolist()}
    found = {pair[0] for pair in pairs}
    missed = true in counted and true not in found
    error = predicted in matches.false_positive_ids.tolist()
    if true == 0:
        return NOT_COUNTED
    if (true, predicted) in pairs:
        return RIGHT
    if error:
        return MISMATCHED if missed else FALSE_POSITIVE
    if missed:
        return MISSED
    outline = true in found or predicted in {pair[1] for pair in pairs}
    return OUTLINE if outline else NOT_COUNTED


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_kinds_are_those_of_the_definition_and_of_the_matches(seed):
    scene = panoptic_scene(seed)
    matches, kinds = compare(scene)
    assert kinds.shape == scene.truth.shape
    assert kinds.dtype == np.uint8
    expected = [[by_definition(scene, matches, y, x) for x in range(18)] for y in range(14)]
    assert kinds.tolist() == expected
    # The matches' own figures: intersection = IoU * union, and the union leaves void out.
    intersections = 0.0
    for (true, predicted), iou in zip(matches.pairs, matches.ious, strict=True):
        both = (scene.truth == true) | ((scene.panoptic == predicted) & (scene.truth != 0))
        intersections += iou * both.sum()
    assert (kinds == RIGHT).sum() == pytest.approx(intersections)
    assert ((kinds == FALSE_POSITIVE) | (kinds == MISMATCHED)).any() <= bool(
        len(matches.false_positives)
    )
    assert ((kinds == MISSED) | (kinds == MISMATCHED)).any() <= bool(len(matches.false_negatives))


def test_the_scenes_have_every_kind_in_number():
    seen = np.zeros(len(PANOPTIC_KINDS), int)
    for seed in range(200):
        seen += np.bincount(compare(panoptic_scene(seed))[1].ravel(), minlength=len(seen))
    assert seen.min() > 100


def test_a_hand_made_image():
    """Void, a crowd, a car that matches, one that is missed, one that was taken for a bus."""
    truth = np.array([[0, 0, 4, 4, 1, 1, 1, 1, 2, 2, 3, 3]])
    segments = [{"id": i, "category_id": 1, "iscrowd": int(i == 4)} for i in (1, 2, 3, 4)]
    car, bus, excused, _ = DIVISOR + 1, 2 * DIVISOR, DIVISOR + 7, -1
    panoptic = np.array([[excused, _, excused, car, car, car, car, _, _, excused, bus, bus]])
    matches, kinds = compare(PanopticScene(truth, segments, panoptic))
    assert matches.pairs.tolist() == [[1, car]]
    assert kinds.tolist() == [
        [
            *(NOT_COUNTED, NOT_COUNTED, NOT_COUNTED, OUTLINE),
            *(RIGHT, RIGHT, RIGHT, OUTLINE, MISSED, MISSED, MISMATCHED, MISMATCHED),
        ]
    ]
    panoptic[0, 7] = bus + 1
    kinds = compare(PanopticScene(truth, segments, panoptic))[1]
    assert kinds[0, 7] == FALSE_POSITIVE  # not the outline of what it covers


def test_nothing_predicted_and_nothing_true():
    truth = np.full((2, 3), 5)
    nothing = np.full((2, 3), -1)
    segments = [{"id": 5, "category_id": 1, "iscrowd": 0}]
    assert (compare(PanopticScene(truth, segments, nothing))[1] == MISSED).all()
    assert (compare(PanopticScene(0 * truth, [], nothing + DIVISOR))[1] == NOT_COUNTED).all()
    unlisted = PanopticScene(truth, [], np.full((2, 3), DIVISOR))
    assert (compare(unlisted)[1] == FALSE_POSITIVE).all()


def test_semantic_kinds():
    truth, classes = np.array([[0, 1, 1, -1, -1]]), np.array([[0, 0, -1, 1, -1]])
    expected = [[RIGHT, WRONG, WRONG, NOT_COUNTED, NOT_COUNTED]]
    assert semantic_error_map(truth, classes).tolist() == expected
    with pytest.raises(EvaluationError, match=r"\(1, 5\).*\(1, 4\)"):
        semantic_error_map(truth[:, :4], classes)
