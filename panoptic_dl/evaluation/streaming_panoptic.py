"""Panoptic quality (Kirillov et al., CVPR 2019) as a stream.

panopticapi's figures (`segment_matching`) without its detour: nothing is written or read back, and
what is remembered of an image are a few integers a class.

One measure serves COCO and Cityscapes. cityscapesscripts' `evaluatePanoptic` counts segments and
averages as panopticapi does; its groups are crowds. Of both scripts these corners are kept: a class
that is predicted somewhere and true nowhere counts, with 0; one without true segments other than
crowds whose predictions all lie on void or those crowds does not count. Not kept are the areas of
the JSON file, which both believe (pixels are counted instead), and their division by zero on a
split without any thing, or any stuff (the figures are NaN).

Shapes: H W pixels, K classes.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.evaluation import exact_sums
from panoptic_dl.evaluation.coverage import Coverage
from panoptic_dl.evaluation.figures import EvaluationError, checked
from panoptic_dl.evaluation.label_files import read_panoptic_ids
from panoptic_dl.evaluation.processes import sum_over_processes
from panoptic_dl.evaluation.segment_matching import (
    SegmentMatches,
    match_listed_segments,
    match_segments,
)
from panoptic_dl.evaluation.stream import StreamingEvaluator, naming

logger = logging.getLogger(__name__)

IOU = slice(0, exact_sums.PARTS)  # columns of the state
TP, FP, FN = range(exact_sums.PARTS, exact_sums.PARTS + 3)
NAMES = ("PQ", "SQ", "RQ")


@dataclass(frozen=True)
class Prediction:
    """A panoptic map as `StreamingPanopticEvaluator.take` is given it, of one image."""

    image: Any
    panoptic: np.ndarray
    segments: list[dict[str, Any]] | None


class StreamingPanopticEvaluator(StreamingEvaluator[Prediction, SegmentMatches]):
    """PQ, SQ and RQ over all classes, things (`_th`) and stuff (`_st`), and of each class.

    In percent. The figure of a class that is neither in the truth nor predicted anywhere is NaN,
    and does not count in an average; panopticapi prints it as 0, and does not count it either.

    The truth of an image is read when it is processed. The state is (K, 6) int64, a table of
    confusions and one integer an image; its sum over the processes is exact, so that figures do not
    depend on their number.

    Attributes:
        names: K names of classes.
        confusions: after `evaluate`, in the first process: (K, K + 1) int64 pixels of each true
            class where each class is predicted, the last column none (void). Crowds do not count.
    """

    needs = "panoptic_seg"

    def __init__(self, dataset: str) -> None:
        """Look up the dataset.

        Args:
            dataset: a panoptic dataset of Detectron2's catalogs. Its categories, those of
                `thing_dataset_id_to_contiguous_id` and of stuff, must be 0..K-1 together, and
                `stuff_classes` must name all of them.

        Raises:
            EvaluationError: they are not, or a record has another category.
        """
        metadata = MetadataCatalog.get(dataset)
        self._label_divisor = metadata.get("label_divisor", 1000)
        things = metadata.thing_dataset_id_to_contiguous_id
        stuff = metadata.stuff_dataset_id_to_contiguous_id
        self._contiguous = {**stuff, **things}
        self._things = frozenset(things.values())
        self.names = self._names = list(metadata.stuff_classes)
        categories = sorted({*stuff.values(), *things.values()})
        if categories != list(range(len(self._names))):
            raise EvaluationError(
                f"the categories of {dataset} are not 0..{len(self._names) - 1}, one for each name "
                f"of its stuff_classes, but {categories}"
            )
        self._records = {record["image_id"]: record for record in DatasetCatalog.get(dataset)}
        for record in self._records.values():
            for segment in record["segments_info"]:
                self._require_category(segment["category_id"], record["pan_seg_file_name"])
        self._coverage = Coverage(self._records, metadata.get("panoptic_json", dataset))
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._coverage.reset()
        self._counts = np.zeros((len(self._names), FN + 1), dtype=np.int64)
        self._confusions = np.zeros((len(self._names), len(self._names) + 1), dtype=np.int64)
        self._num_wrong_areas = np.zeros(1, dtype=np.int64)
        self.confusions: np.ndarray | None = None

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        """Copy the map to the CPU.

        Args:
            item: "image_id" is used.
            output: "panoptic_seg" is (H, W) of category * label_divisor + instance, -1 where void,
                and None; or (H, W) ids, 0 where void, and Detectron2's list of segments.

        Raises:
            EvaluationError: the image has no truth or comes again; the map is none of integers.
        """
        self._coverage.add(item["image_id"])
        with naming(item["image_id"]):
            panoptic, segments = self.entry(output)
            if panoptic.is_floating_point():
                raise EvaluationError(f"the panoptic map holds {panoptic.dtype}, not integers")
        return Prediction(item["image_id"], panoptic.cpu().numpy().copy(), segments)

    def compare(self, taken: Prediction) -> SegmentMatches:
        """Match the segments of one image."""
        record = self._records[taken.image]
        with naming(taken.image):
            matches = self._match(record, taken.panoptic, taken.segments)
        if matches.wrong_areas:
            logger.debug("%s: wrong areas of %s", record["pan_seg_file_name"], matches.wrong_areas)
        return matches

    def add(self, compared: SegmentMatches) -> None:
        """Count the segments of one image."""
        self._counts += count_segments(compared, len(self._names))
        self._confusions += compared.confusions
        self._num_wrong_areas += len(compared.wrong_areas)

    def quality(self, compared: SegmentMatches) -> float:
        """PQ of one image: the mean over its classes, 0..1; NaN without any segment."""
        return _mean(quality(count_segments(compared, len(self._names)))[:, 0])

    def as_output(self, taken: Prediction) -> dict[str, Any]:
        """The panoptic map, (H, W) of category * label_divisor + instance, and None."""
        panoptic = taken.panoptic
        if taken.segments is not None:
            panoptic = np.full(taken.panoptic.shape, -1, dtype=np.int64)
            for number, (label, category) in enumerate(self._listed(taken.segments).items(), 1):
                instance = number % self._label_divisor if category in self._things else 0
                panoptic[taken.panoptic == label] = category * self._label_divisor + instance
        return {"panoptic_seg": (torch.from_numpy(panoptic), None)}

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures from what all processes have seen; None but in the first of them.

        Returns:
            "panoptic_seg": PQ, SQ, RQ, PQ_th, ..., PQ-<class>, ..., and the number of images and of
            true segments whose area in the JSON file is wrong (and was not used).

        Raises:
            EvaluationError: in all processes, when an image has no prediction.
        """
        counts, confusions, seen, wrong_areas = sum_over_processes(
            self._counts, self._confusions, self._coverage.seen, self._num_wrong_areas
        )
        num_images = self._coverage.require_all(seen)
        if not comm.is_main_process():
            return None
        self.confusions = confusions
        of_classes = quality(counts)
        things = np.isin(np.arange(len(counts)), list(self._things))
        everything = np.ones_like(things)
        figures: dict[str, float] = {}
        for suffix, chosen in (("", everything), ("_th", things), ("_st", ~things)):
            for index, name in enumerate(NAMES):
                figures[name + suffix] = _mean(of_classes[chosen, index])
        for index, name in enumerate(NAMES):
            figures |= {
                f"{name}-{class_name}": float(value)
                for class_name, value in zip(self._names, of_classes[:, index], strict=True)
            }
        figures = {name: checked(100 * value, name) for name, value in figures.items()}
        if wrong_areas[0]:
            logger.warning(
                "%d true segments have another area in the JSON file than in the PNG files; the "
                "pixels were counted, but prepare the dataset again",
                wrong_areas[0],
            )
        figures |= {"num_images": num_images, "num_wrong_areas": int(wrong_areas[0])}
        return {"panoptic_seg": figures}

    def _match(
        self, record: dict[str, Any], panoptic: np.ndarray, segments: list[dict[str, Any]] | None
    ) -> SegmentMatches:
        truth = read_panoptic_ids(record["pan_seg_file_name"])
        if segments is None:
            return match_segments(
                truth,
                record["segments_info"],
                panoptic,
                num_classes=len(self._names),
                label_divisor=self._label_divisor,
            )
        categories = self._listed(segments)
        return match_listed_segments(
            truth, record["segments_info"], panoptic, categories, num_classes=len(self._names)
        )

    def _listed(self, segments: list[dict[str, Any]]) -> dict[int, int]:
        """The category of each predicted id."""
        categories = {}
        for segment in segments:
            category = segment["category_id"]
            if segment.get("isthing") is None:  # Detectron2: an id of the dataset
                category = self._contiguous.get(category, -1)
            self._require_category(category, f"predicted segment {segment['id']}")
            categories[segment["id"]] = category
        return categories

    def _require_category(self, category: int, where: str) -> None:
        if not 0 <= category < len(self._names):
            raise EvaluationError(
                f"{where}: category {category} is outside the classes 0..{len(self._names) - 1}"
            )


def count_segments(matches: SegmentMatches, num_classes: int) -> np.ndarray:
    """The (K, 6) counts of one image: the sum of IoU in parts, TP, FP, FN."""
    counts = np.zeros((num_classes, FN + 1), dtype=np.int64)
    np.add.at(counts[:, IOU], matches.categories, exact_sums.split(matches.ious))
    np.add.at(counts[:, TP], matches.categories, 1)
    np.add.at(counts[:, FP], matches.false_positives, 1)
    np.add.at(counts[:, FN], matches.false_negatives, 1)
    return counts


def quality(counts: np.ndarray) -> np.ndarray:
    """PQ, SQ and RQ of each class, (K, 3) in 0..1, NaN without any segment; equation 1 and 2.

    Args:
        counts: (K, 6) int64: the sum of IoU in parts, TP, FP, FN.
    """
    iou, tp = exact_sums.join(counts[:, IOU]), counts[:, TP].astype(np.float64)
    segments = tp + 0.5 * counts[:, FP] + 0.5 * counts[:, FN]
    with np.errstate(divide="ignore", invalid="ignore"):
        segmentation = np.where(tp > 0, iou / tp, 0.0)
        figures = np.stack((iou / segments, segmentation, tp / segments), axis=1)
    figures[segments == 0] = np.nan
    return figures


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
