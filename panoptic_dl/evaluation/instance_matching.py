"""Which predicted instance is which true one, in one image of Cityscapes.

As evalInstanceLevelSemanticLabeling has it, corners included, at each of ten overlaps:

- A prediction is right when its intersection over union with a true instance of its class exceeds
  the overlap; of several on one instance, that with the highest score. The others are errors.
- A prediction that matches nothing is an error, unless a share of its pixels above the overlap is
  void, a group of its class, or a true instance of its class below 100 pixels. One that matches a
  group or such a small instance is neither right nor an error.
- A group below 100 pixels counts twice in that share.
- Void are pixels of ignored labels, but not instances of ignored labels (a single caravan).

Shapes: H W pixels, P predictions, T true instances, O = 10 overlaps, C = 8 classes with instances.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from panoptic_dl.evaluation.cityscapes_labels import INSTANCE_LABELS, LABELS
from panoptic_dl.evaluation.figures import EvaluationError

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # with the script's rounding: 0.6 is 0.6000000000000001
LEAST_SIZE = 100  # pixels
CLASSES = [label.id for label in INSTANCE_LABELS]
OTHER, VOID, FIRST_INSTANCE = range(3)  # what a pixel can be


@dataclass(frozen=True)
class InstanceMatches:
    """The comparison of one image.

    Attributes:
        right: (P, O) bool, predictions that are right at an overlap.
        wrong: (P, O) bool, predictions that are errors; those that are neither do not count.
        classes: (P,) int64 index into CLASSES, of predictions that have pixels and such a class.
        scores: (P,) float64.
        missed: (C, O) int64, number of true instances without a prediction.
        num_true: (C,) int64, number of true instances, without groups and small ones.
    """

    right: np.ndarray
    wrong: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    missed: np.ndarray
    num_true: np.ndarray


def match_instances(
    truth: np.ndarray, predictions: Iterable[tuple[int, float, np.ndarray]]
) -> InstanceMatches:
    """Compare predicted instances with the truth.

    Args:
        truth: (H, W) pixels of an instanceIds file.
        predictions: label id, score and mask, (H, W) bool, of each prediction.

    Raises:
        EvaluationError: the truth holds an unknown label, a size differs, a score is not finite.
    """
    pixels, ids, sizes = _number_pixels(truth)
    classes, scores, areas, counts = [], [], [], []
    for label, score, mask in predictions:
        if mask.shape != truth.shape:
            raise EvaluationError(
                f"a predicted mask is {mask.shape}, the truth {truth.shape} (height, width): "
                "predict at the size of the image file"
            )
        if not np.isfinite(score):
            raise EvaluationError(f"the score of a predicted instance is {score}")
        inside = pixels[np.flatnonzero(mask)]
        if label not in CLASSES or not len(inside):
            continue
        classes.append(CLASSES.index(label))
        scores.append(score)
        areas.append(len(inside))
        counts.append(np.bincount(inside, minlength=FIRST_INSTANCE + len(ids)))
    class_of = np.array(classes, dtype=np.int64)
    score_of = np.array(scores, dtype=np.float64)
    area_of = np.array(areas, dtype=np.int64)
    common = np.array(counts, dtype=np.int64).reshape(len(classes), FIRST_INSTANCE + len(ids))

    right = np.zeros((len(classes), len(OVERLAPS)), dtype=bool)
    wrong = np.zeros_like(right)
    missed = np.zeros((len(CLASSES), len(OVERLAPS)), dtype=np.int64)
    num_true = np.zeros(len(CLASSES), dtype=np.int64)
    owners = np.where(ids < 1000, ids, ids // 1000)
    for index, label in enumerate(CLASSES):
        mine, theirs = np.flatnonzero(class_of == index), np.flatnonzero(owners == label)
        right[mine], wrong[mine], missed[index], num_true[index] = _match_class(
            intersections=common[np.ix_(mine, FIRST_INSTANCE + theirs)],
            on_void=common[mine, VOID],
            areas=area_of[mine],
            scores=score_of[mine],
            sizes=sizes[theirs],
            groups=ids[theirs] < 1000,
        )
    return InstanceMatches(right, wrong, class_of, score_of, missed, num_true)


def _match_class(
    *,
    intersections: np.ndarray,
    on_void: np.ndarray,
    areas: np.ndarray,
    scores: np.ndarray,
    sizes: np.ndarray,
    groups: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Compare instances of one class.

    Args:
        intersections: (P, T) pixels.
        on_void, areas: (P,) pixels.
        scores: (P,).
        sizes: (T,) pixels.
        groups: (T,) bool.

    Returns:
        right (P, O), wrong (P, O), missed (O,), and the number of true instances.
    """
    overlaps = intersections / (sizes + areas[:, None] - intersections)
    hits = overlaps[:, :, None] > OVERLAPS  # (P, T, O)
    small = sizes < LEAST_SIZE
    asked = ~groups & ~small
    right = np.zeros((len(areas), len(OVERLAPS)), dtype=bool)
    ignored = on_void + intersections[:, groups].sum(axis=1) + intersections[:, small].sum(axis=1)
    wrong = ~hits.any(axis=1) & ((ignored / areas)[:, None] <= OVERLAPS)
    missed = np.full(len(OVERLAPS), asked.sum())
    if len(areas):
        for hit in hits[:, asked].swapaxes(0, 1):  # (P, O) of each true instance
            best = np.where(hit, scores[:, None], -np.inf).argmax(axis=0)
            found = np.flatnonzero(hit.any(axis=0))
            right[best[found], found] = True
            wrong |= hit
            missed[found] -= 1
        wrong &= ~right
    return right, wrong, missed, int(asked.sum())


def _number_pixels(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say what each pixel is.

    Returns:
        (H*W,) OTHER, VOID or FIRST_INSTANCE + i; ids (T,) and sizes (T,) in pixels of instances and
        groups of all classes in CLASSES.
    """
    numbers = truth.reshape(-1)
    if numbers.min() < 0:
        raise EvaluationError(f"unknown label with id {numbers.min()}")
    counts = np.bincount(numbers)
    found = np.flatnonzero(counts)
    owners = np.where(found < 1000, found, found // 1000)
    strangers = [
        number for number, o in zip(found.tolist(), owners.tolist(), strict=True) if o not in LABELS
    ]
    if strangers:
        raise EvaluationError(f"unknown label with id {strangers[0]}")
    ids = found[np.isin(owners, CLASSES)]
    table = np.full(len(counts), OTHER, dtype=np.int32)
    table[[n for n in found.tolist() if n in LABELS and LABELS[n].ignoreInEval]] = VOID
    table[ids] = FIRST_INSTANCE + np.arange(len(ids))
    return table[numbers], ids, counts[ids]
