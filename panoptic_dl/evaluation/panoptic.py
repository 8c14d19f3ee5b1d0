"""Panoptic quality (Kirillov et al., CVPR 2019, section 4), as panopticapi computes it.

A predicted segment matches a true one of its class when their intersection over union exceeds 0.5;
at most one can. As in panopticapi:

- Void pixels (id 0 of the ground truth) do not count in a union. A predicted segment without a
  match that has more than half of its pixels on void and the crowd of its own class is no error.
- A crowd is never matched and never missed. Of several crowds of one class only the last of
  `segments_info` excuses predictions, because in panopticapi a later one overwrites the earlier.
- A segment that is listed but has no pixels is missed. Pixels of an id that is not listed belong to
  no segment, but are not void either.
- A class that is predicted somewhere but absent from the ground truth counts, with 0. One without
  true segments other than crowds, whose predictions are all excused, does not count.

Two differences. Areas are counted in the map; panopticapi takes those of the ground truth from the
JSON file, and has printed a quality of 669 % that way. A split without any thing, or any stuff, has
NaN there; panopticapi divides by zero. cityscapesscripts' `evaluatePanoptic` counts and averages as
panopticapi does (its groups are crowds), so that one evaluator serves both.

Shapes: H W pixels, T true segments, P predicted segments, M matches, K classes. True ids are those
of panoptic PNG files, R + 256 G + 256^2 B.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.core.distributed import EXACT_PARTS, from_exact, to_exact
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.core.images import (
    NUM_IDS,
    VOID_ID,
    read_panoptic_ids,
    segment_numbers,
    shifted_labels,
)
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, errors_name, require_size
from panoptic_dl.evaluation.metrics import nan_mean, percentages

logger = logging.getLogger(__name__)

UNLISTED, VOID_ROW, FIRST_SEGMENT = range(3)  # rows of the table of intersections


@dataclass(frozen=True)
class SegmentMatches:
    """The comparison of one image; categories and ids are int64."""

    categories: np.ndarray  # (M,) of the matched segments, the true positives
    ious: np.ndarray  # (M,) float64 in (0.5, 1], of the matched segments
    pairs: np.ndarray  # (M, 2) true and predicted id of the matched segments
    false_positives: np.ndarray  # category of each predicted segment that is an error
    false_positive_ids: np.ndarray  # their ids
    false_negatives: np.ndarray  # category of each true segment that was missed
    wrong_areas: list[int]  # true ids with another area in the JSON file, unlisted ids
    confusions: np.ndarray  # (K, K + 1) pixels by true and predicted class or none, without crowds


def match_segments(
    truth: np.ndarray,
    segments_info: Sequence[Mapping[str, Any]],
    panoptic: np.ndarray,
    *,
    num_classes: int,
    label_divisor: int,
) -> SegmentMatches:
    """Compare a panoptic map with the ground truth.

    Args:
        truth: (H, W) ids, 0 where void.
        segments_info: "id", "category_id", "iscrowd" and, to be checked, "area" of true segments.
        panoptic: (H, W) int64 of category * label_divisor + instance, -1 where void.
        num_classes: K; categories are 0..K-1.
        label_divisor: see `panoptic`.

    Raises:
        EvaluationError: sizes differ, or an id fits no category.
    """
    labels, found = shifted_labels(panoptic, num_classes, label_divisor)
    require_size(panoptic.shape, truth.shape)
    predicted_ids = found - 1
    predicted_categories = predicted_ids // label_divisor

    segments = {int(segment["id"]): segment for segment in segments_info}  # the last of an id
    ids = np.fromiter(segments, dtype=np.int64, count=len(segments))
    if len(ids) and not 0 < ids.min() <= ids.max() < NUM_IDS:
        raise EvaluationError(
            f"true segment ids {ids.min()}..{ids.max()} are outside 1..{NUM_IDS - 1}; 0 is void"
        )
    true_ids = truth.reshape(-1).astype(np.int64, copy=False)
    rows, columns, intersections = _intersections(true_ids, ids, labels.reshape(-1), found)
    categories = np.array([s["category_id"] for s in segments.values()], dtype=np.int64)
    crowd = np.array([s["iscrowd"] == 1 for s in segments.values()], dtype=bool)

    # By row, UNLISTED, VOID_ROW and T segments; by column, void and P segments.
    true_areas = np.bincount(rows, intersections, len(ids) + FIRST_SEGMENT).astype(np.int64)
    areas = np.bincount(columns, intersections, len(found) + 1).astype(np.int64)
    on_void = np.zeros(len(found) + 1, dtype=np.int64)
    on_void[columns[rows == VOID_ROW]] = intersections[rows == VOID_ROW]

    # Candidates: a true segment that is no crowd and a predicted segment of its class.
    pairs = (rows >= FIRST_SEGMENT) & (columns > 0)
    row, column, common = rows[pairs] - FIRST_SEGMENT, columns[pairs], intersections[pairs]
    same_class = categories[row] == predicted_categories[column - 1]
    candidate = same_class & ~crowd[row]
    unions = areas[column] + true_areas[row + FIRST_SEGMENT] - common - on_void[column]
    ious = common / unions
    matched = candidate & (ious > 0.5)

    missed = ~crowd
    missed[row[matched]] = False
    # Pixels on void, and on the last crowd of the segment's class, excuse a predicted segment.
    last_crowds = {int(categories[index]): int(index) for index in np.flatnonzero(crowd)}
    excusing = same_class & np.isin(row, list(last_crowds.values()))
    excused = on_void.copy()
    excused[column[excusing]] += common[excusing]
    wrong = np.ones(len(found) + 1, dtype=bool)
    wrong[0] = False
    wrong[column[matched]] = False
    wrong[wrong] = excused[wrong] / areas[wrong] <= 0.5
    errors = np.flatnonzero(wrong) - 1

    # Crowds, void and ids that are not listed have no class.
    true = np.concatenate(([-1, -1], np.where(crowd, -1, categories)))[rows]
    predicted = np.concatenate(([num_classes], predicted_categories))[columns]
    confusions = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(confusions, (true[true >= 0], predicted[true >= 0]), intersections[true >= 0])
    return SegmentMatches(
        categories=categories[row[matched]],
        ious=ious[matched],
        pairs=np.stack((ids[row[matched]], predicted_ids[column[matched] - 1]), axis=1),
        false_positives=predicted_categories[errors],
        false_positive_ids=predicted_ids[errors],
        false_negatives=categories[missed],
        wrong_areas=_wrong_areas(segments, true_areas, true_ids),
        confusions=confusions,
    )


def _intersections(
    true_ids: np.ndarray, ids: np.ndarray, labels: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (UNLISTED, VOID_ROW, T segments), columns (void, P segments) and pixels of pairs.

    Look-up tables over all ids are cheap: only pages of memory that are used come into being.
    """
    width = len(found) + 1
    table = np.zeros(NUM_IDS, dtype=np.int64)
    table[VOID_ID] = VOID_ROW * width
    table[ids] = (FIRST_SEGMENT + np.arange(len(ids))) * width
    pairs = table[true_ids]
    if len(found) and found[-1] >= NUM_IDS:  # a table would take gigabytes
        pairs += np.searchsorted(found, labels, side="right")
    else:
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


def _wrong_areas(
    segments: Mapping[int, Mapping[str, Any]], true_areas: np.ndarray, true_ids: np.ndarray
) -> list[int]:
    areas = true_areas[FIRST_SEGMENT:].tolist()
    wrong = [
        label
        for (label, segment), area in zip(segments.items(), areas, strict=True)
        if segment.get("area") not in (None, area)
    ]
    if true_areas[UNLISTED]:
        wrong += sorted(set(np.unique(true_ids).tolist()) - set(segments) - {0})
    return wrong


class PanopticMap(NamedTuple):
    """(H, W) of category * divisor + instance, -1 where void, and the divisor."""

    labels: np.ndarray
    divisor: int


def predicted_panoptic(
    prediction: tuple[torch.Tensor, list[dict[str, Any]] | None],
    *,
    contiguous_ids: Mapping[int, int],
    things: Collection[int],
    label_divisor: int,
) -> PanopticMap:
    """The map of a model's "panoptic_seg", copied to the CPU; see `number_segments` for its values.

    Args:
        prediction: (H, W) of category * label_divisor + instance, -1 where void, and None; or (H,
            W) ids, 0 where void, and Detectron2's list of segments.
        contiguous_ids: categories 0..K-1 by their ids in the dataset.
        things: categories of things.
        label_divisor: of `prediction`; that of the result, unless it has more segments.

    Raises:
        EvaluationError: the map holds no integers, or does not fit the list.
    """
    panoptic, segments = prediction
    if panoptic.is_floating_point():
        raise EvaluationError(f"the panoptic map holds {panoptic.dtype}, not integers")
    ids = panoptic.cpu().numpy().copy()
    if segments is None:
        return PanopticMap(ids, label_divisor)
    categories: dict[int, int] = {}
    known = set(contiguous_ids.values())
    for segment in segments:
        number, category = int(segment["id"]), int(segment["category_id"])
        if segment.get("isthing") is None:  # Detectron2: an id of the dataset
            category = contiguous_ids.get(category, -1)
        if category not in known:
            raise EvaluationError(
                f"segment {number}: category {category} is outside the classes 0..{len(known) - 1}"
            )
        if number in categories:
            raise EvaluationError(f"segment {number} is listed twice")
        categories[number] = category
    return number_segments(ids, categories, things=things, label_divisor=label_divisor)


def number_segments(
    ids: np.ndarray,
    categories: Mapping[int, int],
    *,
    things: Collection[int],
    label_divisor: int,
) -> PanopticMap:
    """Turn ids into (H, W) int64 of category * divisor + instance, -1 where void.

    Ids that are such a number + 1, as Detectron2 and this package write them, keep their instance;
    others are counted in the order of the list, things from 1 and stuff from 0. Where a category
    has too many segments for `label_divisor`, the divisor is the least that has room.

    Args:
        ids: (H, W), 0 where void.
        categories: category 0..K-1 of each id.

    EvaluationError: an id is in the map or the list alone, or none of a panoptic PNG.
    """
    outside = [i for i in (int(ids.min()), int(ids.max()), *categories) if not 0 <= i < NUM_IDS]
    if outside or 0 in categories:
        number = outside[0] if outside else 0
        raise EvaluationError(f"segment {number} is outside 1..{NUM_IDS - 1}; 0 is void")
    numbers = segment_numbers(ids, list(categories))
    listed = np.bincount(numbers.reshape(-1), minlength=len(categories) + 1)[1:] > 0
    unlisted = ids[(numbers == 0) & (ids != 0)]
    if unlisted.size or not listed.all():
        number = unlisted[0] if unlisted.size else list(categories)[int(listed.argmin())]
        places = "map but not in the list" if unlisted.size else "list but not in the map"
        raise EvaluationError(
            f"segment {number} is in the {places}; predict again, or take both from one run"
        )
    labels, divisor = [-1, *(number - 1 for number in categories)], label_divisor
    if any((number - 1) // label_divisor != category for number, category in categories.items()):
        labels = [-1]
        following = {category: int(category in things) for category in categories.values()}
        counts = Counter(categories.values())
        divisor = max(label_divisor, *(following[each] + counts[each] for each in counts))
        for category in categories.values():
            labels.append(category * divisor + following[category])
            following[category] += 1
    return PanopticMap(np.array(labels, dtype=np.int64)[numbers], divisor)


IOU = slice(0, EXACT_PARTS)  # columns of the counts
TP, FP, FN = range(EXACT_PARTS, EXACT_PARTS + 3)
NAMES = ("PQ", "SQ", "RQ")

# Name of the image, and what is predicted for it.
PanopticPrediction = tuple[Any, PanopticMap]


class StreamingPanopticEvaluator(StreamingEvaluator[PanopticPrediction, SegmentMatches]):
    """PQ, SQ and RQ over all classes, things (`_th`) and stuff (`_st`), and of each class.

    In percent. A class that is neither in the ground truth nor predicted anywhere has NaN, and does
    not count in an average; panopticapi prints it as 0, and does not count it either. Results do
    not depend on the number of processes: they exchange integers, (K, 6) and a table of confusions.

    Attributes:
        names: K names of classes.
        confusions: after `evaluate`, in the main process: (K, K + 1) int64 pixels of each true
            class where each class is predicted, the last column none (void). Crowds do not count.
        counts: then and there: (K, 6) int64, the sum of IoU in parts, TP, FP, FN.
    """

    needs = "panoptic_seg"
    tasks = ("panoptic_seg",)

    def __init__(self, dataset: str) -> None:
        """A panoptic dataset of Detectron2's catalogs.

        Its categories, those of `thing_dataset_id_to_contiguous_id` and of stuff, are 0..K-1
        together, and `stuff_classes` names all of them.
        """
        metadata = MetadataCatalog.get(dataset)
        if not metadata.get("has_truth", True):
            raise EvaluationError(
                f"{dataset} has no ground truth to measure with: leave out dataset.test_split"
            )
        self._label_divisor = metadata.label_divisor
        things = metadata.thing_dataset_id_to_contiguous_id
        stuff = metadata.stuff_dataset_id_to_contiguous_id
        self._contiguous = {**stuff, **things}
        self._things = frozenset(things.values())
        self.names = list(metadata.stuff_classes)
        categories = {*stuff.values(), *things.values()}
        assert categories == {*range(len(self.names))}, (
            "how to add a dataset: docs/explanation/architecture.md"
        )
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
        self._coverage = Coverage(self._records, metadata.get("panoptic_json", dataset))
        self.reset()

    def reset(self) -> None:
        self._coverage.reset()
        self._counts = np.zeros((len(self.names), FN + 1), dtype=np.int64)
        self._confusions = np.zeros((len(self.names), len(self.names) + 1), dtype=np.int64)
        self._num_wrong_areas = np.zeros(1, dtype=np.int64)
        self.confusions: np.ndarray | None = None
        self.counts: np.ndarray | None = None

    def truth_files(self, record: dict[str, Any]) -> Labels:
        return [(record["pan_seg_file_name"], "panoptic")]

    def predicted(self, output: dict[str, Any]) -> PanopticMap:
        return predicted_panoptic(
            self._required(output),
            contiguous_ids=self._contiguous,
            things=self._things,
            label_divisor=self._label_divisor,
        )

    def match(self, prediction: PanopticPrediction) -> SegmentMatches:
        image, (labels, divisor) = prediction
        record = self._records[image]
        with errors_name(f"image {image}"):
            truth = read_panoptic_ids(record["pan_seg_file_name"])
            matches = match_segments(
                truth,
                record["segments_info"],
                labels,
                num_classes=len(self.names),
                label_divisor=divisor,
            )
        if matches.wrong_areas:
            logger.debug("%s: wrong areas of %s", record["pan_seg_file_name"], matches.wrong_areas)
        return matches

    def update(self, match: SegmentMatches) -> None:
        self._counts += _count_segments(match, len(self.names))
        self._confusions += match.confusions
        self._num_wrong_areas += len(match.wrong_areas)

    def quality(self, match: SegmentMatches) -> float:
        """PQ of one image: the mean over its classes, 0..1; NaN without any segment."""
        return nan_mean(_panoptic_quality(_count_segments(match, len(self.names)))[:, 0])

    def as_output(self, prediction: PanopticPrediction) -> dict[str, Any]:
        """The panoptic map, (H, W) of category * label_divisor + instance, None, its divisor."""
        labels, divisor = prediction[1]
        return {"panoptic_seg": (torch.from_numpy(labels), None), "label_divisor": divisor}

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Results of all processes, "panoptic_seg": PQ, SQ, RQ, PQ_th, ..., PQ-<class>, ...

        And the number of images, and of true segments whose area in the JSON file is wrong (and was
        not used).
        """
        (counts, confusions, wrong_areas), num_images = self._sum(
            self._counts, self._confusions, self._num_wrong_areas
        )
        if not comm.is_main_process():
            return None
        self.counts, self.confusions = counts, confusions
        table = _panoptic_quality(counts)  # (K, 3)
        things = np.isin(np.arange(len(counts)), list(self._things))
        results: dict[str, float] = {}
        for suffix, chosen in (("", slice(None)), ("_th", things), ("_st", ~things)):
            for index, name in enumerate(NAMES):
                results[name + suffix] = nan_mean(table[chosen, index])
        for index, name in enumerate(NAMES):
            for class_name, value in zip(self.names, table[:, index].tolist(), strict=True):
                results[f"{name}-{class_name}"] = value
        if wrong_areas[0]:
            logger.warning(
                f"{wrong_areas[0]} true segments have another area in the JSON file than in the "
                "PNG files; the pixels were counted, but prepare the dataset again"
            )
        extra = {"num_images": num_images, "num_wrong_areas": int(wrong_areas[0])}
        return {"panoptic_seg": percentages(results) | extra}


def _count_segments(matches: SegmentMatches, num_classes: int) -> np.ndarray:
    """The (K, 6) counts of one image: the sum of IoU in parts, TP, FP, FN."""
    counts = np.zeros((num_classes, FN + 1), dtype=np.int64)
    np.add.at(counts[:, IOU], matches.categories, to_exact(matches.ious))
    np.add.at(counts[:, TP], matches.categories, 1)
    np.add.at(counts[:, FP], matches.false_positives, 1)
    np.add.at(counts[:, FN], matches.false_negatives, 1)
    return counts


def _panoptic_quality(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ, RQ of classes, (K, 3) in 0..1, of (K, 6) counts; NaN without any. Equations 1, 2."""
    iou, tp = from_exact(counts[:, IOU]), counts[:, TP].astype(np.float64)
    segments = tp + 0.5 * counts[:, FP] + 0.5 * counts[:, FN]
    with np.errstate(divide="ignore", invalid="ignore"):
        segmentation = np.where(tp > 0, iou / tp, 0.0)
        table = np.stack((iou / segments, segmentation, tp / segments), axis=1)
    table[segments == 0] = np.nan
    return table
