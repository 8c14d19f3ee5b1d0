"""Which predicted instance is which true one in one image of COCO, and AP from all of them.

Both are pycocotools' doing (Lin et al., ECCV 2014), a class and an image at a time: `computeIoU`
and `evaluateImg` match, `accumulate` and `summarize` make the figures. Between the two a prediction
is one row of numbers. `COCOeval.evaluate` is not called, because it prints and changes the truth,
which threads must not.

Shapes: N predictions, K classes, A = 4 ranges of area (all, small, medium, large), O = 10 overlaps,
H W pixels.
"""

import itertools
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval, Params

from panoptic_dl.evaluation.coco_truth import ImageTruth, TrueInstance
from panoptic_dl.evaluation.figures import EvaluationError

KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first numbers that `summarize` returns
AREAS, OVERLAPS = Params("bbox").areaRng, Params("bbox").iouThrs
BITS = 1 << np.arange(len(AREAS) * len(OVERLAPS)).reshape(len(AREAS), len(OVERLAPS))

# Columns of a row: class, score, and for each of KINDS two sets of BITS: where the prediction
# matches something, and where it does not count. They are 40, and float64 holds 53.
CLASS, SCORE = range(2)
MATCHED = {kind: 2 + 2 * index for index, kind in enumerate(KINDS)}
IGNORED = {kind: 3 + 2 * index for index, kind in enumerate(KINDS)}
NUM_COLUMNS = 2 + 2 * len(KINDS)


ByClass = dict[int, list[dict[str, Any]]]  # annotations as pycocotools has them


@dataclass(frozen=True)
class Detections:
    """The predictions of one image.

    Attributes:
        classes: N of 0..K-1.
        scores: N floats.
        boxes: (N, 4) float32, x, y, width, height in pixels.
        masks: (N, H, W) bool.
    """

    classes: list[int]
    scores: list[float]
    boxes: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """The comparison of one image.

    Attributes:
        rows: (N, NUM_COLUMNS) float64, one class after the other, the best first; without what
            lies beyond the 100 best of a class.
        num_true: (K, A) int64, number of true instances that count.
    """

    rows: np.ndarray
    num_true: np.ndarray


def match_detections(
    truth: ImageTruth, detections: Detections, *, num_classes: int
) -> ImageMatches:
    """Compare predictions with the truth, by boxes and by masks.

    Raises:
        EvaluationError: a segmentation of the truth cannot be read or has another size.
    """
    asked: ByClass = defaultdict(list)
    found: dict[str, ByClass] = {kind: defaultdict(list) for kind in KINDS}
    for instance in truth.instances:
        crowd = int(instance.crowd)
        annotation = {  # of our own, for `evaluateImg` writes into it
            "id": instance.id,
            "area": instance.area,
            "iscrowd": crowd,
            "ignore": crowd,
            "bbox": instance.box,
            "segmentation": _encode_truth(instance, truth.size),
        }
        asked[instance.category].append(annotation)
    for index, category in enumerate(detections.classes):
        box = detections.boxes[index].tolist()
        mask = mask_util.encode(np.asfortranarray(detections.masks[index], dtype=np.uint8))
        result = {"id": index + 1, "score": detections.scores[index]}
        found["bbox"][category].append(result | {"bbox": box, "area": box[2] * box[3]})
        found["segm"][category].append(
            result | {"segmentation": mask, "area": int(mask_util.area(mask))}
        )

    rows = [np.zeros((0, NUM_COLUMNS))]
    num_true = np.zeros((num_classes, len(AREAS)), dtype=np.int64)
    for category in sorted(asked.keys() | found["bbox"].keys()):
        of_kinds = {
            kind: _match_class(kind, asked[category], found[kind][category]) for kind in KINDS
        }
        everything = of_kinds["bbox"][0]
        mine = np.zeros((len(everything["dtScores"]), NUM_COLUMNS))
        mine[:, CLASS], mine[:, SCORE] = category, everything["dtScores"]
        for kind, of_areas in of_kinds.items():
            for bits, area in zip(BITS, of_areas, strict=True):
                mine[:, MATCHED[kind]] += bits @ (area["dtMatches"] != 0)
                mine[:, IGNORED[kind]] += bits @ area["dtIgnore"]
        rows.append(mine)
        # What counts depends on the area in the file: it is the same for boxes and masks.
        num_true[category] = [np.count_nonzero(area["gtIgnore"] == 0) for area in of_kinds["bbox"]]
    return ImageMatches(np.concatenate(rows), num_true)


def average_precisions(
    kind: str, images: np.ndarray, rows: np.ndarray, num_true: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """Figures of all images, 0..1: those of NAMES, and AP (K,) of each class; NaN without truth.

    Args:
        kind: one of KINDS.
        images: (N,) the image of each row, as numbers that sort like the ids of the images: of
            equal scores, those of the first image count first.
        rows: (N, NUM_COLUMNS), one image after the other, in any order of images.
        num_true: (K, A) sums over all images.
    """
    matched, ignored = (
        (rows[:, column[kind]].astype(np.int64) & BITS[:, :, None]) > 0  # (A, O, N)
        for column in (MATCHED, IGNORED)
    )
    numbers, positions = np.unique(images, return_inverse=True)
    num_classes, width = len(num_true), len(numbers) + 1
    # As `evaluate` leaves them: by class, then area, then image, whichever came first. True
    # instances count wherever they are, so that one more image holds all of them.
    entries: list[dict[str, Any] | None] = [None] * (num_classes * len(AREAS) * width)
    new = (np.diff(images) != 0) | (np.diff(rows[:, CLASS]) != 0)
    starts = np.concatenate(([0], np.flatnonzero(new) + 1, [len(rows)]))
    for start, end in itertools.pairwise(starts.tolist()):
        for area in range(len(AREAS) if end > start else 0):
            place = (int(rows[start, CLASS]) * len(AREAS) + area) * width + positions[start]
            entries[place] = {
                "dtScores": rows[start:end, SCORE],
                "dtMatches": matched[area, :, start:end],
                "dtIgnore": ignored[area, :, start:end],
                "gtIgnore": np.zeros(0),
            }
    nothing = np.zeros((len(OVERLAPS), 0), dtype=bool)
    for index, number in enumerate(num_true.reshape(-1).tolist()):
        entries[(index + 1) * width - 1] = {
            "dtScores": np.zeros(0),
            "dtMatches": nothing,
            "dtIgnore": nothing,
            "gtIgnore": np.zeros(number),
        }
    with redirect_stdout(StringIO()):  # they print
        evaluation = COCOeval(iouType=kind)
        evaluation.params.imgIds = list(range(width))
        evaluation.params.catIds = list(range(num_classes))
        evaluation.evalImgs, evaluation._paramsEval = entries, evaluation.params
        evaluation.accumulate()
        evaluation.summarize()
    figures = {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(NAMES, evaluation.stats, strict=False)
    }
    of_classes = np.full(num_classes, np.nan)
    # (O, recalls, K, A, numbers of predictions): all areas, and 100 predictions.
    for category in np.flatnonzero(num_true[:, 0]):
        of_classes[category] = evaluation.eval["precision"][:, :, category, 0, -1].mean()
    return figures, of_classes


def _match_class(
    kind: str, truth: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What pycocotools says of one class in one image, for each range of areas."""
    matcher = COCOeval(iouType=kind)
    matcher._gts[0, 0], matcher._dts[0, 0] = truth, detections
    matcher.ious = {(0, 0): matcher.computeIoU(0, 0)}
    limit = matcher.params.maxDets[-1]
    return [matcher.evaluateImg(0, 0, area, limit) for area in matcher.params.areaRng]


def _encode_truth(instance: TrueInstance, size: tuple[int, int]) -> dict[str, Any]:
    """The mask of an annotation, run-length encoded."""
    encoded = instance.segmentation
    try:
        if isinstance(encoded, list):
            encoded = mask_util.merge(mask_util.frPyObjects(encoded, *size))
        elif not isinstance(encoded["counts"], str):
            encoded = mask_util.frPyObjects(encoded, *size)
    except Exception as error:  # pycocotools raises no class of its own
        raise EvaluationError(
            f"the segmentation of annotation {instance.id} cannot be read ({error})"
        ) from error
    if tuple(encoded["size"]) != size:
        raise EvaluationError(
            f"annotation {instance.id} is {tuple(encoded['size'])}, the image {size} "
            "(height, width)"
        )
    return encoded
