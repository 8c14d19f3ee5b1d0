"""Cityscapes' average precision of instance masks (Cordts et al., CVPR 2016).

As cityscapesscripts' evalInstanceLevelSemanticLabeling computes it, at each of ten overlaps:

- A prediction is right when its intersection over union with a true instance of its class exceeds
  the overlap; of several on one instance, that with the highest score. The others are errors.
- A prediction that matches nothing is an error, unless a share of its pixels above the overlap is
  void, a group of its class, or a true instance of its class below 100 pixels. One that matches a
  group or such a small instance is neither right nor an error.
- A group below 100 pixels counts twice in that share.
- Void are pixels of ignored labels, but not instances of ignored labels (a single caravan).
- Average precision is the area under the precision-recall curve by steps, each of which reaches
  half way to its neighbors. No precision is replaced by a better one at higher recall, as in COCO.

Shapes: H W pixels, P predictions, T true instances, C = 8 classes with instances, O = 10 overlaps.
"""

from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import name2label
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.core.distributed import concatenate_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.core.images import read_label_ids
from panoptic_dl.evaluation.cityscapes_semantic import (
    INSTANCE_LABELS,
    LABELS,
    find_labels,
    image_id,
)
from panoptic_dl.evaluation.evaluator import (
    Coverage,
    Detection,
    StreamingEvaluator,
    errors_name,
    predicted_instances,
    require_size,
)
from panoptic_dl.evaluation.metrics import nan_mean, percentages

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # with the script's rounding: 0.6 is 0.6000000000000001
LEAST_SIZE = 100  # pixels
CLASSES = [label.id for label in INSTANCE_LABELS]
OTHER, IGNORED, FIRST_INSTANCE = range(3)  # what a pixel can be
BITS = 1 << np.arange(len(OVERLAPS))  # of the overlaps, in a mask of them

# Of predictions that are right or wrong at some overlap, (N, 4) float64: index into CLASSES, score,
# and the overlaps where each is right, and where it is an error; and of true instances, without
# groups and small ones, the numbers without a prediction, (C, O), and of all, (C,) int64.
InstanceMatch = tuple[np.ndarray, np.ndarray, np.ndarray]


def _match_instances(truth: np.ndarray, predictions: list[Detection]) -> InstanceMatch:
    """Compare instances, whose categories are label ids, with (H, W) pixels of instanceIds."""
    pixels, ids, sizes = _number_pixels(truth)
    found = []
    for detection in predictions:
        require_size(detection.pixels.shape, truth.shape, "a predicted mask")
        if detection.category not in CLASSES:
            continue
        mask = detection.mask
        rows = np.flatnonzero(mask.any(axis=1))
        if len(rows):
            part = slice(int(rows[0]), int(rows[-1]) + 1)  # few of the image's
            inside = pixels[part].reshape(-1)[np.flatnonzero(mask[part])]
            counts = np.bincount(inside, minlength=FIRST_INSTANCE + len(ids))
            found.append((CLASSES.index(detection.category), detection.score, counts))
    classes = np.array([each[0] for each in found], dtype=np.int64)
    scores = np.array([each[1] for each in found], dtype=np.float64)
    common = np.array([each[2] for each in found], dtype=np.int64)
    common = common.reshape(len(found), FIRST_INSTANCE + len(ids))
    areas = common.sum(axis=1)

    right = np.zeros((len(found), len(OVERLAPS)), dtype=bool)
    wrong = np.zeros_like(right)
    missed = np.zeros((len(CLASSES), len(OVERLAPS)), dtype=np.int64)
    num_true = np.zeros(len(CLASSES), dtype=np.int64)
    owners = np.where(ids < 1000, ids, ids // 1000)
    for index, label in enumerate(CLASSES):
        mine, theirs = np.flatnonzero(classes == index), np.flatnonzero(owners == label)
        groups, small = ids[theirs] < 1000, sizes[theirs] < LEAST_SIZE
        asked = ~groups & ~small
        missed[index] = num_true[index] = asked.sum()
        if not len(mine):
            continue
        pixels_of = common[np.ix_(mine, FIRST_INSTANCE + theirs)]  # (P, T)
        unions = sizes[theirs] + areas[mine, None] - pixels_of
        hits = (pixels_of / unions)[:, :, None] > OVERLAPS  # (P, T, O)
        ignored = common[mine, IGNORED] + pixels_of[:, groups].sum(axis=1)
        ignored += pixels_of[:, small].sum(axis=1)
        of_mine = np.zeros((len(mine), len(OVERLAPS)), dtype=bool)
        errors = ~hits.any(axis=1) & ((ignored / areas[mine])[:, None] <= OVERLAPS)
        for hit in hits[:, asked].swapaxes(0, 1):  # (P, O) of each true instance
            best = np.where(hit, scores[mine, None], -np.inf).argmax(axis=0)
            columns = np.flatnonzero(hit.any(axis=0))
            of_mine[best[columns], columns] = True
            errors |= hit
            missed[index, columns] -= 1
        right[mine], wrong[mine] = of_mine, errors & ~of_mine
    bits = right @ BITS, wrong @ BITS
    rows = np.stack((classes, scores, *bits), axis=1)
    return rows[(bits[0] | bits[1]) > 0], missed, num_true


def _number_pixels(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) OTHER, IGNORED or FIRST_INSTANCE + i; ids (T,) and sizes (T,) of what CLASSES have."""
    numbers = truth.reshape(-1)
    if numbers.min() < 0:
        raise EvaluationError(f"unknown label with id {numbers.min()}")
    counts = np.bincount(numbers)
    found = np.flatnonzero(counts)
    owners = np.where(found < 1000, found, found // 1000)
    unknown = found[~np.isin(owners, list(LABELS))]
    if len(unknown):
        raise EvaluationError(f"unknown label with id {unknown[0]}")
    ids = found[np.isin(owners, CLASSES)]
    table = np.full(len(counts), OTHER, dtype=np.int32)
    table[[n for n in found.tolist() if n in LABELS and LABELS[n].ignoreInEval]] = IGNORED
    table[ids] = FIRST_INSTANCE + np.arange(len(ids))
    return table[truth], ids, counts[ids]


def _average_precision(scores: np.ndarray, true: np.ndarray, num_missed: int) -> float:
    """Average precision, 0..1, of one class that is in the ground truth, at one overlap.

    `true` (N,) says which predictions that count are right; of `scores` (N,) the order matters;
    `num_missed` true instances have no prediction.
    """
    if not len(scores):  # all instances are missed: the script raises IndexError
        return 0.0
    order = np.argsort(scores)
    _, first = np.unique(scores[order], return_index=True)
    right_below = np.concatenate(([0], np.cumsum(true[order])))[first]
    # At each threshold, the predictions with at least that score.
    right = int(true.sum()) - right_below
    accepted = len(scores) - first
    recall = right / (int(true.sum()) + num_missed)
    # The last point is artificial: nothing accepted, precision 1.
    precision = np.append(right / accepted, 1.0)
    recall = np.concatenate(([recall[0]], recall, [0.0, 0.0]))
    return float(np.dot(precision, 0.5 * (recall[:-2] - recall[2:])))


class StreamingCityscapesInstanceEvaluator(
    StreamingEvaluator[tuple[str, list[Detection]], InstanceMatch]
):
    """`segm.AP`, over overlaps 0.5, 0.55 .. 0.95, `segm.AP50`, and both of each class, in percent.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids) and
    `scores`. Labels are read from `gt_dir` of the metadata; all of its images must be evaluated.

    Of each prediction 32 bytes are kept.
    """

    needs = "instances"
    tasks = ("segm",)

    def __init__(self, dataset: str) -> None:
        """`dataset`: in Detectron2's catalogs; its metadata has `gt_dir` and `thing_classes`."""
        metadata = MetadataCatalog.get(dataset)
        self._label_ids = [name2label[name].id for name in metadata.thing_classes]
        self._files = find_labels(metadata.gt_dir, "_gtFine_instanceIds.png")
        self._coverage = Coverage(self._files, metadata.gt_dir)
        self.reset()

    def reset(self) -> None:
        self._coverage.reset()
        # Of each prediction: class, score, and the overlaps where it is right, or an error.
        self._rows: list[np.ndarray] = [np.zeros((0, 4))]
        self._missed = np.zeros((len(CLASSES), len(OVERLAPS)), dtype=np.int64)
        self._num_true = np.zeros(len(CLASSES), dtype=np.int64)

    def image_of(self, item: dict[str, Any]) -> str:
        return image_id(item["file_name"])

    def truth_files(self, record: dict[str, Any]) -> Labels:
        file = self._files.get(self.image_of(record))
        return [] if file is None else [(str(file), "label")]

    def predicted(self, output: dict[str, Any]) -> list[Detection]:
        """The instances, see `predicted_instances`; categories become label ids."""
        return predicted_instances(output, self._label_ids)

    def match(self, prediction: tuple[str, list[Detection]]) -> InstanceMatch:
        image, detections = prediction
        file = self._files[image]
        truth = read_label_ids(file)
        with errors_name(file):
            return _match_instances(truth, detections)

    def update(self, match: InstanceMatch) -> None:
        """Keep class, score and overlaps of the predictions of one image."""
        rows, missed, num_true = match
        self._rows.append(rows)
        self._missed += missed
        self._num_true += num_true

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Results of all processes: "segm" with AP, AP50, AP-<class>, AP50-<class>, num_images.

        A class that is not in the ground truth has NaN and does not count, whatever was predicted.
        """
        (missed, num_true), num_images = self._sum(self._missed, self._num_true)
        rows = concatenate_over_processes(np.concatenate(self._rows))
        if not comm.is_main_process():
            return None
        table = _precision_table(rows, missed, num_true)
        results = {"AP": nan_mean(table), "AP50": nan_mean(table[:, 0])}
        for name, columns in (("AP", slice(None)), ("AP50", slice(0, 1))):
            for label, values in zip(INSTANCE_LABELS, table[:, columns], strict=True):
                results[f"{name}-{label.name}"] = float(values.mean())
        return {"segm": percentages(results) | {"num_images": num_images}}


def _precision_table(rows: np.ndarray, missed: np.ndarray, num_true: np.ndarray) -> np.ndarray:
    """Average precisions (C, O) in 0..1, NaN for classes that are not in the ground truth."""
    table = np.full(missed.shape, np.nan)
    classes, scores, right, wrong = rows.T
    right, wrong = right.astype(np.int64), wrong.astype(np.int64)
    for index in np.flatnonzero(num_true):
        mine = classes == index
        for column, bit in enumerate(BITS.tolist()):
            counted = mine & (((right | wrong) & bit) > 0)
            table[index, column] = _average_precision(
                scores[counted], (right[counted] & bit) > 0, int(missed[index, column])
            )
    return table
