"""Which predicted segment is which true one, in one image (Kirillov et al., CVPR 2019, section 4).

A predicted segment matches a true one of its class when their intersection over union exceeds 0.5;
at most one can. What follows is panopticapi's definition, corners included:

- Pixels without truth (void, id 0) do not count in a union. A predicted segment without a match
  that has more than half of its pixels on void and the crowd of its own class is no error.
- A crowd is never matched and never missed. Of several crowds of one class only the last of
  `segments_info` excuses predictions: in panopticapi a later one overwrites the earlier.
- A segment that is listed but has no pixels is missed. Pixels of an id that is not listed belong to
  no segment, but are not void either.

One difference: areas are counted in the map. panopticapi takes those of the truth from the JSON
file, and has printed a quality of 669 % that way; areas that differ are returned.

Shapes: H W pixels, T true segments, P predicted segments, M matches, K classes. Truth ids are those
of panoptic PNG files, R + 256 G + 256^2 B.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_dl.evaluation.figures import EvaluationError

NUM_IDS = 256**3  # of a panoptic PNG
UNLISTED, VOID, FIRST_SEGMENT = range(3)  # rows of the table of intersections


@dataclass(frozen=True)
class SegmentMatches:
    """The comparison of one image.

    Attributes:
        categories: (M,) int64, of the matched segments, the true positives.
        ious: (M,) float64 in (0.5, 1], of the matched segments.
        pairs: (M, 2) int64, true and predicted id of the matched segments.
        false_positives: int64, category of each predicted segment that is an error.
        false_positive_ids: int64, their ids.
        false_negatives: int64, category of each true segment that was missed.
        wrong_areas: ids of the truth whose area in the JSON file is not what the map holds; an id
            of the map that is not listed has the listed area 0.
        confusions: (K, K + 1) int64, pixels of each true class where each class is predicted, the
            last column none; without void, pixels of unlisted ids, and crowds.
    """

    categories: np.ndarray
    ious: np.ndarray
    pairs: np.ndarray
    false_positives: np.ndarray
    false_positive_ids: np.ndarray
    false_negatives: np.ndarray
    wrong_areas: list[int]
    confusions: np.ndarray


def match_segments(
    truth: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    panoptic: np.ndarray,
    *,
    num_classes: int,
    label_divisor: int,
) -> SegmentMatches:
    """Compare a panoptic map with the truth.

    Args:
        truth: (H, W) ids, 0 where void.
        segments_info: "id", "category_id", "iscrowd" and, to be checked, "area" of true segments.
        panoptic: (H, W) int64 of category * label_divisor + instance, -1 where void.
        num_classes: categories are 0..K-1.
        label_divisor: see `panoptic`.

    Raises:
        EvaluationError: sizes differ, or an id fits no category.
    """
    _require_size(truth, panoptic)
    labels = panoptic.reshape(-1).astype(np.int64, copy=False)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or highest >= num_classes * label_divisor:
        raise EvaluationError(
            f"predicted panoptic id {lowest if lowest < -1 else highest} is neither void (-1) nor "
            f"one of {num_classes} classes * {label_divisor} + instance"
        )
    labels = labels + 1  # 0 where void
    found = np.flatnonzero(np.bincount(labels))
    found = found[found > 0]
    return _match(
        truth, segments_info, labels, found, found - 1, (found - 1) // label_divisor, num_classes
    )


def match_listed_segments(
    truth: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    predicted: np.ndarray,
    categories: Mapping[int, int],
    *,
    num_classes: int,
) -> SegmentMatches:
    """Compare a map of arbitrary ids with the truth.

    Args:
        truth, segments_info: as in `match_segments`.
        predicted: (H, W) ids, 0 where void.
        categories: category of each predicted id.
        num_classes: categories are 0..K-1.

    Raises:
        EvaluationError: sizes differ, an id is in the map or the list alone or is none of a PNG.
    """
    _require_size(truth, predicted)
    labels = predicted.reshape(-1).astype(np.int64, copy=False)
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < NUM_IDS:
            raise EvaluationError(f"predicted segment id {label} is outside 0..{NUM_IDS - 1}")
    found = np.flatnonzero(np.bincount(labels))
    found = found[found > 0]
    odd = sorted(set(found.tolist()) ^ set(categories))
    if odd:
        places = "list but not in the map" if odd[0] in categories else "map but not in the list"
        raise EvaluationError(f"predicted segment {odd[0]} is in the {places}")
    of_found = np.array([categories[label] for label in found.tolist()], dtype=np.int64)
    return _match(truth, segments_info, labels, found, found, of_found, num_classes)


def _match(
    truth: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    labels: np.ndarray,
    found: np.ndarray,
    predicted_ids: np.ndarray,
    predicted_categories: np.ndarray,
    num_classes: int,
) -> SegmentMatches:
    """Compare; `found` are the P values of `labels` (H*W,) except 0, of the given categories (P,),
    which callers know as `predicted_ids` (P,).
    """
    segments = {int(segment["id"]): segment for segment in segments_info}  # the last of an id
    ids = np.fromiter(segments, dtype=np.int64, count=len(segments))
    if len(ids) and not 0 < ids.min() <= ids.max() < NUM_IDS:
        raise EvaluationError(
            f"true segment ids {ids.min()}..{ids.max()} are outside 1..{NUM_IDS - 1}; 0 is void"
        )
    true_ids = truth.reshape(-1).astype(np.int64, copy=False)
    rows, columns, intersections = _intersections(true_ids, ids, labels, found)

    true_areas = np.bincount(rows, intersections, len(ids) + FIRST_SEGMENT).astype(np.int64)
    areas = np.bincount(columns, intersections, len(found) + 1).astype(np.int64)
    on_void = np.zeros(len(found) + 1, dtype=np.int64)
    on_void[columns[rows == VOID]] = intersections[rows == VOID]

    categories = np.array([s["category_id"] for s in segments.values()], dtype=np.int64)
    crowd = np.array([s["iscrowd"] == 1 for s in segments.values()], dtype=bool)

    # Candidates: a segment of the truth that is no crowd and a predicted segment of its class.
    pairs = (rows >= FIRST_SEGMENT) & (columns > 0)
    row, column, common = rows[pairs] - FIRST_SEGMENT, columns[pairs], intersections[pairs]
    same = (categories[row] == predicted_categories[column - 1]) & ~crowd[row]
    row, column, common = row[same], column[same], common[same]
    unions = areas[column] + true_areas[row + FIRST_SEGMENT] - common - on_void[column]
    ious = common / unions
    matched = ious > 0.5
    row, column, ious = row[matched], column[matched], ious[matched]

    missed = ~crowd
    missed[row] = False
    wrong = np.ones(len(found) + 1, dtype=bool)
    wrong[0] = False
    wrong[column] = False
    excused = on_void + _on_crowd(
        rows, columns, intersections, categories, crowd, predicted_categories
    )
    wrong[wrong] = excused[wrong] / areas[wrong] <= 0.5
    errors = np.flatnonzero(wrong) - 1
    return SegmentMatches(
        categories=categories[row],
        ious=ious,
        pairs=np.stack((ids[row], predicted_ids[column - 1]), axis=1),
        false_positives=predicted_categories[errors],
        false_positive_ids=predicted_ids[errors],
        false_negatives=categories[missed],
        confusions=_confusions(
            rows, columns, intersections, categories, crowd, predicted_categories, num_classes
        ),
        wrong_areas=_wrong_areas(segments, true_areas, true_ids),
    )


def _intersections(
    true_ids: np.ndarray, ids: np.ndarray, labels: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the pixels of each pair: rows, columns and counts of the pairs that exist.

    Rows are UNLISTED, VOID and T segments; columns void and P segments. Look-up tables over all ids
    are cheap, for only the pages of memory that are used come into being.
    """
    width = len(found) + 1
    table = np.zeros(NUM_IDS, dtype=np.int64)
    table[0] = VOID * width
    table[ids] = (FIRST_SEGMENT + np.arange(len(ids))) * width
    pairs = table[true_ids]
    table = np.zeros(int(found[-1]) + 1 if len(found) else 1, dtype=np.int64)
    table[found] = 1 + np.arange(len(found))
    pairs += table[labels]
    size = (FIRST_SEGMENT + len(ids)) * width
    if size <= max(1 << 20, 4 * pairs.size):
        counts = np.bincount(pairs)
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:  # so many segments that the table of all pairs would outgrow the image
        values, counts = np.unique(pairs, return_counts=True)
    return values // width, values % width, counts


def _confusions(
    rows: np.ndarray,
    columns: np.ndarray,
    intersections: np.ndarray,
    categories: np.ndarray,
    crowd: np.ndarray,
    predicted_categories: np.ndarray,
    num_classes: int,
) -> np.ndarray:
    true = np.concatenate(([-1, -1], np.where(crowd, -1, categories)))[rows]
    predicted = np.concatenate(([num_classes], predicted_categories))[columns]
    counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(counts, (true[true >= 0], predicted[true >= 0]), intersections[true >= 0])
    return counts


def _on_crowd(
    rows: np.ndarray,
    columns: np.ndarray,
    intersections: np.ndarray,
    categories: np.ndarray,
    crowd: np.ndarray,
    predicted_categories: np.ndarray,
) -> np.ndarray:
    """Pixels of each predicted segment on the last crowd of its class: (1 + P,), the first void."""
    pixels = np.zeros(len(predicted_categories) + 1, dtype=np.int64)
    last = {int(categories[index]): int(index) for index in np.flatnonzero(crowd)}
    for category, index in last.items():
        pairs = (rows == FIRST_SEGMENT + index) & (columns > 0)
        own = np.flatnonzero(pairs)[predicted_categories[columns[pairs] - 1] == category]
        pixels[columns[own]] = intersections[own]
    return pixels


def _wrong_areas(
    segments: Mapping[int, Mapping[str, Any]], true_areas: np.ndarray, true_ids: np.ndarray
) -> list[int]:
    wrong = [
        label
        for (label, segment), area in zip(
            segments.items(), true_areas[FIRST_SEGMENT:].tolist(), strict=True
        )
        if segment.get("area", area) != area
    ]
    if true_areas[UNLISTED]:
        wrong += sorted(set(np.unique(true_ids).tolist()) - set(segments) - {0})
    return wrong


def _require_size(truth: np.ndarray, predicted: np.ndarray) -> None:
    if truth.shape != predicted.shape:
        raise EvaluationError(
            f"the prediction is {predicted.shape}, the truth {truth.shape} (height, width): "
            "predict at the size of the image file"
        )
