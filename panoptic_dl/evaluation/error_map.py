"""What became of each pixel of one image: right, or which kind of error it belongs to.

The kinds are those of panoptic quality: errors are whole segments (false positives and missed ones)
and, of segments that match, the pixels outside their intersection. They show where quality is lost.

Shapes: H W pixels, K classes, T true and P predicted segments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_dl.evaluation.evaluator import require_size
from panoptic_dl.evaluation.panoptic import SegmentMatches

# Codes are positions in these names.
PANOPTIC_KINDS = ("not counted", "right", "outline", "false positive", "missed", "mismatched")
NOT_COUNTED, RIGHT, OUTLINE, FALSE_POSITIVE, MISSED, MISMATCHED = range(6)
SEMANTIC_KINDS = ("not counted", "right", "wrong")
WRONG = 2

# What a segment is.
TRUE_VOID, TRUE_LEFT_OUT, TRUE_MATCHED, TRUE_MISSED = range(4)
HARMLESS, PREDICTED_MATCHED, ERROR = range(3)  # harmless: nothing predicted, or excused

# The kind of a pixel by its two segments, unless these are a pair. A segment that counts as an
# error as a whole comes before the outline of another; two such segments make a kind of their own,
# so that none hides the other. Crowds and unlisted ids are left out of the ground truth, but not
# void: a segment's pixels on them enlarge its union.
KIND = np.array(
    [  # HARMLESS, PREDICTED_MATCHED, ERROR
        [NOT_COUNTED, NOT_COUNTED, NOT_COUNTED],  # TRUE_VOID
        [NOT_COUNTED, OUTLINE, FALSE_POSITIVE],  # TRUE_LEFT_OUT
        [OUTLINE, OUTLINE, FALSE_POSITIVE],  # TRUE_MATCHED
        [MISSED, MISSED, MISMATCHED],  # TRUE_MISSED
    ],
    dtype=np.uint8,
)


def panoptic_error_map(
    truth: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    panoptic: np.ndarray,
    matches: SegmentMatches,
) -> np.ndarray:
    """The kind of each pixel, (H, W) uint8, positions in PANOPTIC_KINDS.

    right           in the intersection of a matched pair
    outline         of a matched segment, true or predicted, but outside of its intersection
    false positive  predicted by a segment that is an error, where no missed segment is
    missed          of a true segment without a match, where nothing wrong is predicted
    mismatched      missed and false positive at once: another class, or cut otherwise
    not counted     void; crowds and ids that are not listed, unless predicted by a segment that
                    matches or is wrong; predictions that are excused, where nothing true is

    Args:
        truth: (H, W) ids, 0 where void.
        segments_info: "id" and "iscrowd" of true segments.
        panoptic: (H, W) predicted ids; those that are nowhere in `matches` are void or excused.
        matches: of `match_segments` for the same arguments.
    """
    true_ids, true_inverse = _segments(truth)
    predicted_ids, predicted_inverse = _segments(panoptic)

    listed = {int(segment["id"]): segment["iscrowd"] == 1 for segment in segments_info}
    counted = [label for label, crowd in listed.items() if not crowd]
    of_true = np.full(len(true_ids), TRUE_LEFT_OUT)
    of_true[np.isin(true_ids, counted)] = TRUE_MISSED
    of_true[np.isin(true_ids, matches.pairs[:, 0])] = TRUE_MATCHED
    of_true[true_ids == 0] = TRUE_VOID

    of_predicted = np.full(len(predicted_ids), HARMLESS)
    of_predicted[np.isin(predicted_ids, matches.false_positive_ids)] = ERROR
    of_predicted[np.isin(predicted_ids, matches.pairs[:, 1])] = PREDICTED_MATCHED

    kinds = KIND[of_true[:, None], of_predicted[None]]  # (T, P)
    # Both lists of ids are sorted, and all matched ones are in them.
    rows = np.searchsorted(true_ids, matches.pairs[:, 0])
    kinds[rows, np.searchsorted(predicted_ids, matches.pairs[:, 1])] = RIGHT
    return kinds[true_inverse, predicted_inverse]


def semantic_error_map(truth: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The kind of each pixel, (H, W) uint8, positions in SEMANTIC_KINDS.

    Args:
        truth: (H, W) classes, negative where ignored.
        classes: (H, W) predicted classes; any other number, as -1, is none, and wrong.

    Raises:
        EvaluationError: sizes differ.
    """
    require_size(classes.shape, truth.shape)
    kinds = np.where(truth == classes, RIGHT, WRONG)
    kinds[truth < 0] = NOT_COUNTED
    return kinds.astype(np.uint8)


def _segments(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a map, sorted, and the map as positions in them, (H, W)."""
    found, inverse = np.unique(ids.astype(np.int64), return_inverse=True)
    return found, inverse.reshape(ids.shape)
