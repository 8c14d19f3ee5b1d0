"""Cityscapes' average precision of instance masks (Cordts et al., CVPR 2016) as a stream.

The figures of cityscapesscripts' evalInstanceLevelSemanticLabeling, without its files: masks are
compared as they come (`instance_matching`), and what is remembered of a prediction are its class,
its score, and at which overlaps it is right or an error.

Shapes: H W pixels, N instances, C = 8 classes with instances, O = 10 overlaps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cityscapesscripts.helpers.labels import name2label
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm

from panoptic_dl.evaluation.average_precision import average_precision
from panoptic_dl.evaluation.cityscapes_labels import INSTANCE_LABELS, find_labels, image_id
from panoptic_dl.evaluation.coverage import Coverage
from panoptic_dl.evaluation.figures import EvaluationError, checked
from panoptic_dl.evaluation.instance_matching import (
    CLASSES,
    OVERLAPS,
    InstanceMatches,
    match_instances,
)
from panoptic_dl.evaluation.label_files import read_label_ids
from panoptic_dl.evaluation.processes import concatenate_over_processes, sum_over_processes
from panoptic_dl.evaluation.stream import StreamingEvaluator, naming

BITS = 1 << np.arange(len(OVERLAPS))  # of the overlaps, in a mask of them


@dataclass(frozen=True)
class Prediction:
    """Label id, score and mask, (H, W) bool, of each instance of an image; its truth's file."""

    truth: Path
    instances: list[tuple[int, float, np.ndarray]]


class StreamingCityscapesInstanceEvaluator(StreamingEvaluator[Prediction, InstanceMatches]):
    """`segm.AP`, over overlaps 0.5, 0.55 .. 0.95, `segm.AP50`, and both of each class, in percent.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids) and
    `scores`. Labels are read from `gt_dir` of the metadata; all of its images must be evaluated.

    The state is 32 bytes a prediction, one integer an image and a few tables.
    """

    needs = "instances"

    def __init__(self, dataset: str) -> None:
        """Look up the labels.

        Args:
            dataset: a dataset of Detectron2's catalogs whose metadata has `gt_dir`, and the name of
                each class in `thing_classes`.
        """
        metadata = MetadataCatalog.get(dataset)
        self._label_ids = [name2label[name].id for name in metadata.thing_classes]
        self._files = find_labels(metadata.gt_dir, "_gtFine_instanceIds.png")
        self._coverage = Coverage(self._files, metadata.gt_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._coverage.reset()
        # Of each prediction: class, score, and the overlaps where it is right, or an error.
        self._rows: list[np.ndarray] = [np.zeros((0, 4))]
        self._missed = np.zeros((len(CLASSES), len(OVERLAPS)), dtype=np.int64)
        self._num_true = np.zeros(len(CLASSES), dtype=np.int64)

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        """Move classes, scores and masks to the CPU."""
        image = image_id(item["file_name"])
        self._coverage.add(image)
        with naming(image):
            return Prediction(self._files[image], self._predictions(output.get("instances")))

    def compare(self, taken: Prediction) -> InstanceMatches:
        """Match the instances of one image."""
        truth = read_label_ids(taken.truth)
        try:
            return match_instances(truth, taken.instances)
        except EvaluationError as error:
            raise EvaluationError(f"{taken.truth}: {error}") from error

    def add(self, compared: InstanceMatches) -> None:
        """Remember what the predictions of one image are."""
        right, wrong = compared.right @ BITS, compared.wrong @ BITS
        rows = np.stack((compared.classes, compared.scores, right, wrong), axis=1)
        self._rows.append(rows[(right | wrong) > 0])
        self._missed += compared.missed
        self._num_true += compared.num_true

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures from what all processes have seen; None but in the first of them.

        Returns:
            "segm": AP, AP50, AP-<class>, AP50-<class>, and the number of images. A class that is
            not in the truth has NaN and does not count in the mean, whatever was predicted.

        Raises:
            EvaluationError: in all processes, when an image has no prediction.
        """
        missed, num_true, seen = sum_over_processes(
            self._missed, self._num_true, self._coverage.seen
        )
        rows = concatenate_over_processes(np.concatenate(self._rows))
        num_images = self._coverage.require_all(seen)
        if not comm.is_main_process():
            return None
        table = precision_table(rows, missed, num_true)
        figures = {"AP": _mean(table), "AP50": _mean(table[:, 0])}
        for name, columns in (("AP", slice(None)), ("AP50", slice(0, 1))):
            for label, values in zip(INSTANCE_LABELS, table[:, columns], strict=True):
                figures[f"{name}-{label.name}"] = float(values.mean())
        figures = {name: checked(100 * value, name) for name, value in figures.items()}
        return {"segm": figures | {"num_images": num_images}}

    def _predictions(self, instances: Instances | None) -> list[tuple[int, float, np.ndarray]]:
        if instances is None:
            return []
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        masks = instances.pred_masks
        if masks.dtype != torch.bool:
            masks = masks.to(torch.uint8)  # as Detectron2: below 1 is outside
        found = []
        for category, score, mask in zip(classes, scores, masks.cpu().numpy(), strict=True):
            if not 0 <= category < len(self._label_ids):
                raise EvaluationError(
                    f"a predicted instance has class {category}, outside the classes "
                    f"0..{len(self._label_ids) - 1}"
                )
            found.append((self._label_ids[category], score, mask))
        return found


def precision_table(rows: np.ndarray, missed: np.ndarray, num_true: np.ndarray) -> np.ndarray:
    """Average precisions (C, O) in 0..1, NaN for classes that are not in the truth.

    Args:
        rows: (N, 4) float64: class, score, mask of overlaps where right, and where an error.
        missed: (C, O) true instances without a prediction.
        num_true: (C,) true instances.
    """
    table = np.full(missed.shape, np.nan)
    classes, scores, right, wrong = rows.T
    right, wrong = right.astype(np.int64), wrong.astype(np.int64)
    for index in np.flatnonzero(num_true):
        mine = classes == index
        for column, bit in enumerate(BITS.tolist()):
            counted = mine & (((right | wrong) & bit) > 0)
            table[index, column] = average_precision(
                scores[counted], (right[counted] & bit) > 0, int(missed[index, column])
            )
    return table


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
