"""Box and mask AP of COCO (Lin et al., ECCV 2014), computed by pycocotools image by image.

`COCOeval.computeIoU` and `evaluateImg` match a class and an image at a time, `accumulate` makes
precisions by recall; between the two, a prediction is one row of numbers instead of a mask.
`COCOeval.evaluate` is not called, because it prints and changes the ground truth, which several
threads read at once. The ground truth is an instances file; where there is none, the things of
panoptic labels: masks are then the visible pixels, for panoptic segments do not overlap, and boxes
are around them. COCO's instances files have polygons of annotators instead, so that metrics of the
two do not compare.

Shapes: N predictions, K classes of things, A = 4 ranges of area (all, small, medium, large), O = 10
overlaps, H W pixels.
"""

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from pycocotools import mask as mask_util
from pycocotools.cocoeval import COCOeval, Params

from panoptic_dl.core.distributed import concatenate_over_processes
from panoptic_dl.core.errors import DatasetError, EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.core.images import read_panoptic_ids
from panoptic_dl.core.masks import encode_mask, read_instances_file
from panoptic_dl.evaluation.evaluator import (
    Coverage,
    Detection,
    StreamingEvaluator,
    errors_name,
    predicted_instances,
    require_size,
)
from panoptic_dl.evaluation.metrics import nan_mean, percentages


class _ImageTruth(NamedTuple):
    """Size and annotations of one image.

    "category_id" is counted from 0 among the things, in the order of the file. As in the official
    script, a match with one of the "id" 0 counts as none.
    """

    size: tuple[int, int]
    instances: list[dict[str, Any]]


def read_instances(
    dataset: str, records: Sequence[Mapping[str, Any]]
) -> dict[Any, _ImageTruth] | None:
    """Ground truth by the id of the image, from a dataset's instances file; None where it has none.

    EvaluationError where it is not in COCO's format for object detection, or has other categories,
    images or sizes than the dataset.
    """
    metadata = MetadataCatalog.get(dataset)
    file, categories = metadata.get("json_file"), metadata.thing_dataset_id_to_contiguous_id
    if file is None:
        return None
    try:
        content = read_instances_file(Path(file), boxes=True)
    except DatasetError as error:
        raise EvaluationError(f"{error}; fetch or prepare it again") from error
    if content.bad_masks:
        raise EvaluationError(f"{file}: {content.bad_masks[0]}; fetch or prepare it again")
    if content.categories.keys() != categories.keys():
        unknown = min(content.categories.keys() ^ categories.keys(), key=str)
        where = "the file" if unknown in content.categories else "the dataset's metadata"
        raise EvaluationError(
            f"the categories of {file} are not those of the dataset: {unknown} is in {where} alone"
        )
    images: dict[Any, _ImageTruth] = {}
    for number, image in content.images.items():
        images[number] = _ImageTruth((image["height"], image["width"]), content.instances[number])
        for instance in content.instances[number]:
            instance["category_id"] = categories[instance["category_id"]]
    own = {record["image_id"]: record for record in records}
    if odd := sorted(own.keys() ^ images.keys(), key=str):
        here, there = (dataset, file) if odd[0] in own else (file, dataset)
        raise EvaluationError(
            f"image {odd[0]} is in {here} but not in {there}: both must hold the same images "
            f"({len(own)} and {len(images)}); of a part of COCO scripts/subset_coco.py makes both "
            "files"
        )
    for number, record in own.items():
        size = record.get("height"), record.get("width")
        if None not in size and size != images[number].size:
            raise EvaluationError(
                f"{file}: image {number} is {images[number].size}, {size} in {dataset} (height, "
                "width)"
            )
    return images


KINDS = ("bbox", "segm")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AREAS, OVERLAPS = Params("bbox").areaRng, Params("bbox").iouThrs
BITS = 1 << np.arange(len(AREAS) * len(OVERLAPS)).reshape(len(AREAS), len(OVERLAPS))

# Columns of a row: class, score, and for each of KINDS two sets of BITS: where the prediction
# matches something, and where it does not count. They are 40, and float64 holds 53.
CLASS, SCORE = range(2)
MATCHED = {kind: 2 + 2 * index for index, kind in enumerate(KINDS)}
IGNORED = {kind: 3 + 2 * index for index, kind in enumerate(KINDS)}
NUM_COLUMNS = 2 + 2 * len(KINDS)


def _match_detections(
    truth: _ImageTruth, detections: list[Detection], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compare predictions of one image with the ground truth, by boxes and by masks.

    Returns (N, NUM_COLUMNS) float64, class after class, the best first, of which 100 at most; and
    (K, A) int64, the number of true instances that count.
    """
    true: dict[int, list[dict[str, Any]]] = defaultdict(list)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {kind: defaultdict(list) for kind in KINDS}
    for instance in truth.instances:
        # A new one, because `evaluateImg` writes into it.
        true[instance["category_id"]].append(instance | {"ignore": instance["iscrowd"]})
    for number, detection in enumerate(detections, start=1):
        category, score, _, box, _ = detection
        corner, sides = box[:2].tolist(), (box[2:] - box[:2]).tolist()
        code = mask_util.encode(np.asfortranarray(detection.mask, dtype=np.uint8))
        result = {"id": number, "score": score}
        found["bbox"][category].append(
            result | {"bbox": corner + sides, "area": sides[0] * sides[1]}
        )
        found["segm"][category].append(
            result | {"segmentation": code, "area": int(mask_util.area(code))}
        )

    rows = [np.zeros((0, NUM_COLUMNS))]
    num_true = np.zeros((num_classes, len(AREAS)), dtype=np.int64)
    for category in sorted(true.keys() | found["bbox"].keys()):
        of_kinds = {
            kind: _match_class(kind, true[category], found[kind][category]) for kind in KINDS
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
    return np.concatenate(rows), num_true


def _average_precisions(
    kind: str, rows: np.ndarray, num_true: np.ndarray
) -> tuple[dict[str, float], list[float]]:
    """The metrics of NAMES, and AP of each class, 0..1; NaN without ground truth.

    `rows` are (N, 1 + NUM_COLUMNS): first the image's number, which sorts as its id, for of equal
    scores those of the first image count first. `num_true` (K, A) are sums over all images.
    """
    rows = rows[np.argsort(rows[:, 0], kind="stable"), 1:]
    entries = []
    # As `evaluate` leaves them, by class, then area, but with all images as one.
    for category, of_areas in enumerate(num_true.tolist()):
        mine = rows[rows[:, CLASS] == category]
        matched, ignored = (
            (mine[:, column[kind]].astype(np.int64) & BITS[:, :, None]) > 0  # (A, O, N)
            for column in (MATCHED, IGNORED)
        )
        for area, number in enumerate(of_areas):
            entry = {"dtMatches": matched[area], "dtIgnore": ignored[area]}
            entry |= {"dtScores": mine[:, SCORE], "gtIgnore": np.zeros(number)}
            entries.append(entry)
    evaluation = COCOeval(iouType=kind)
    evaluation.evalImgs = entries
    parameters = evaluation._paramsEval = evaluation.params
    parameters.imgIds, parameters.catIds = [0], list(range(len(num_true)))
    parameters.maxDets = [len(rows)]  # 100 of each image and class are left already
    with redirect_stdout(StringIO()):  # it prints
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # (O, recalls, K, A), -1 without ground truth
    precision[precision == -1] = np.nan
    of_50, of_75 = precision[0], precision[5]  # of OVERLAPS
    parts = [precision[..., 0], of_50[..., 0], of_75[..., 0]]
    parts += [precision[..., area] for area in (1, 2, 3)]
    metrics = {name: nan_mean(part) for name, part in zip(NAMES, parts, strict=True)}
    return metrics, [nan_mean(precision[:, :, category, 0]) for category in range(len(num_true))]


def _match_class(
    kind: str, truth: list[dict[str, Any]], detections: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Match one class in one image by pycocotools, for each range of areas."""
    matcher = COCOeval(iouType=kind)
    matcher._gts[0, 0], matcher._dts[0, 0] = truth, detections
    matcher.ious = {(0, 0): matcher.computeIoU(0, 0)}
    limit = matcher.params.maxDets[-1]
    return [matcher.evaluateImg(0, 0, area, limit) for area in matcher.params.areaRng]


class StreamingCOCOInstanceEvaluator(
    StreamingEvaluator[tuple[Any, list[Detection]], tuple[int, np.ndarray, np.ndarray]]
):
    """`bbox` and `segm`: AP over overlaps 0.5, 0.55 .. 0.95, in percent, and its usual parts.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_boxes`, `pred_classes` (counted
    from 0 among the things) and `scores`; an image without them has no predictions. As in the
    official script, the 100 best of each class and image count, and of equal scores the first.

    Of each prediction 56 bytes are kept. Images are in the order of their ids when precision is
    computed, so that neither the order of evaluation nor the number of processes changes a result.
    """

    needs = "instances"
    tasks = KINDS

    def __init__(self, dataset: str) -> None:
        """A panoptic dataset of Detectron2's catalogs; its things must be 0..K-1.

        Where its metadata has `json_file`, that must list the dataset's images and no others; else
        the ground truth are the things of the panoptic labels. EvaluationError if it does not fit.
        """
        metadata = MetadataCatalog.get(dataset)
        categories = metadata.thing_dataset_id_to_contiguous_id
        self._things = sorted(categories.values())
        self.names = [metadata.thing_classes[index] for index in self._things]
        assert self._things == [*range(len(categories))], "things come first, as in COCO"
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
        self._numbers = {image: number for number, image in enumerate(sorted(self._records))}
        file = metadata.get("json_file")
        self._instances = read_instances(dataset, list(self._records.values()))
        self._coverage = Coverage(self._records, file or dataset)
        self.reset()

    def reset(self) -> None:
        self._coverage.reset()
        self._rows: list[np.ndarray] = [np.zeros((0, 1 + NUM_COLUMNS))]  # the image's number first
        self._num_true = np.zeros((len(self.names), len(AREAS)), dtype=np.int64)

    def truth_files(self, record: dict[str, Any]) -> Labels:
        return [] if self._instances else [(record["pan_seg_file_name"], "panoptic")]

    def predicted(self, output: dict[str, Any]) -> list[Detection]:
        return predicted_instances(output, range(len(self.names)))

    def match(self, prediction: tuple[Any, list[Detection]]) -> tuple[int, np.ndarray, np.ndarray]:
        image, detections = prediction
        record = self._records[image]
        with errors_name(f"image {image}"):
            if self._instances is None:
                truth = panoptic_instances(record, self._things)
            else:
                truth = self._instances[image]
            for detection in detections:
                require_size(detection.pixels.shape, truth.size)
            rows, num_true = _match_detections(truth, detections, len(self.names))
        return self._numbers[image], rows, num_true

    def update(self, match: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Keep the rows of the predictions of one image."""
        number, rows, num_true = match
        self._rows.append(np.insert(rows, 0, number, axis=1))
        self._num_true += num_true

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Results of all processes, "bbox" and "segm": AP, AP50, AP75, APs, APm, APl, AP-<class>.

        And num_images. NaN where there is nothing to find; elsewhere no predictions are an AP of 0.
        """
        (num_true,), num_images = self._sum(self._num_true)
        rows = concatenate_over_processes(np.concatenate(self._rows))
        if not comm.is_main_process():
            return None
        results = {}
        for kind in KINDS:
            shares, of_classes = _average_precisions(kind, rows, num_true)
            for name, value in zip(self.names, of_classes, strict=True):
                shares[f"AP-{name}"] = value
            results[kind] = percentages(shares) | {"num_images": num_images}
        return results


def panoptic_instances(record: dict[str, Any], things: Container[int]) -> _ImageTruth:
    """Read the things, of these categories, of the panoptic label of a record."""
    ids = read_panoptic_ids(record["pan_seg_file_name"])
    instances = []
    for segment in record["segments_info"]:
        if segment["category_id"] not in things:
            continue
        encoded = encode_mask(ids == segment["id"])
        area = int(mask_util.area(encoded))
        if area:  # else listed without pixels: nothing that could be found
            instance = {key: segment[key] for key in ("id", "category_id", "iscrowd")}
            box = mask_util.toBbox(encoded).tolist()
            instances.append(instance | {"area": area, "bbox": box, "segmentation": encoded})
    return _ImageTruth((ids.shape[0], ids.shape[1]), instances)
