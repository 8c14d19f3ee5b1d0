"""COCO's box and mask AP (Lin et al., ECCV 2014) as a stream.

pycocotools' figures, by pycocotools (`coco_matching`): an image is matched when it comes, and what
is remembered of a prediction are seven numbers instead of its mask.

Shapes: N predictions, K classes of things, H W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils import comm

from panoptic_dl.evaluation.coco_matching import (
    AREAS,
    KINDS,
    NUM_COLUMNS,
    Detections,
    ImageMatches,
    average_precisions,
    match_detections,
)
from panoptic_dl.evaluation.coco_truth import ImageTruth, read_instances
from panoptic_dl.evaluation.coverage import Coverage
from panoptic_dl.evaluation.figures import EvaluationError, checked
from panoptic_dl.evaluation.processes import concatenate_over_processes, sum_over_processes
from panoptic_dl.evaluation.stream import StreamingEvaluator, naming


@dataclass(frozen=True)
class Prediction:
    """The instances of one image."""

    image: Any
    detections: Detections


@dataclass(frozen=True)
class Compared:
    """An image, by its number, and its matches."""

    number: int
    matches: ImageMatches


class StreamingCOCOInstanceEvaluator(StreamingEvaluator[Prediction, Compared]):
    """`bbox` and `segm`: AP over overlaps 0.5, 0.55 .. 0.95, in percent, and its usual parts.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_boxes`, `pred_classes` (counted
    from 0 among the things) and `scores`; an image without them has no predictions. As in the
    official script, the 100 best of each class and image count, and of equal scores the first.

    The state is 56 bytes a prediction, one integer an image and (K, 4) integers. Images are in the
    order of their ids when precision is computed, so that neither the order of evaluation nor the
    number of processes changes a figure.
    """

    needs = "instances"

    def __init__(self, dataset: str) -> None:
        """Read the truth.

        Args:
            dataset: a panoptic dataset of Detectron2's catalogs whose metadata has `json_file`. It
                must list the images of the dataset and no others.

        Raises:
            EvaluationError: it does not, or cannot be read.
        """
        metadata = MetadataCatalog.get(dataset)
        categories = metadata.thing_dataset_id_to_contiguous_id
        self.names = [metadata.thing_classes[index] for index in sorted(categories.values())]
        if sorted(categories.values()) != list(range(len(categories))):
            raise EvaluationError(
                f"the things of {dataset} are not 0..{len(categories) - 1}, as box and mask AP need"
            )
        self._truth = self._read_truth(dataset, metadata)
        self._numbers = {image: number for number, image in enumerate(sorted(self._truth))}
        self._coverage = Coverage(self._truth, self._source)
        self.reset()

    def _read_truth(self, dataset: str, metadata: Metadata) -> Mapping[Any, ImageTruth]:
        """The truth by the id of the image; `_source` says in messages what it is of."""
        self._source = metadata.json_file
        truth = read_instances(self._source, metadata.thing_dataset_id_to_contiguous_id)
        images = {record["image_id"] for record in DatasetCatalog.get(dataset)}
        _require_same(images, set(truth), dataset, self._source)
        return truth

    def _size(self, image: Any) -> tuple[int, int]:
        """(H, W) of an image."""
        return self._truth[image].size

    def reset(self) -> None:
        """Forget all images."""
        self._coverage.reset()
        self._rows: list[np.ndarray] = [np.zeros((0, 1 + NUM_COLUMNS))]  # the image's number first
        self._num_true = np.zeros((len(self.names), len(AREAS)), dtype=np.int64)

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        """Move boxes, classes, scores and masks to the CPU."""
        image = item["image_id"]
        self._coverage.add(image)
        with naming(image):
            return Prediction(image, self._detections(image, output.get("instances")))

    def compare(self, taken: Prediction) -> Compared:
        """Match the instances of one image."""
        with naming(taken.image):
            matches = match_detections(
                self._truth[taken.image], taken.detections, num_classes=len(self.names)
            )
        return Compared(self._numbers[taken.image], matches)

    def add(self, compared: Compared) -> None:
        """Remember what the predictions of one image are."""
        rows = compared.matches.rows
        self._rows.append(np.insert(rows, 0, compared.number, axis=1))
        self._num_true += compared.matches.num_true

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures from what all processes have seen; None but in the first of them.

        Returns:
            "bbox" and "segm": AP, AP50, AP75, APs, APm, APl, AP-<class>, and the number of images.
            A figure without anything to find is NaN, and no prediction an AP of 0 elsewhere.

        Raises:
            EvaluationError: in all processes, when an image has no prediction.
        """
        num_true, seen = sum_over_processes(self._num_true, self._coverage.seen)
        rows = concatenate_over_processes(np.concatenate(self._rows))
        num_images = self._coverage.require_all(seen)
        if not comm.is_main_process():
            return None
        results = {}
        for kind in KINDS:
            figures, of_classes = average_precisions(kind, rows[:, 0], rows[:, 1:], num_true)
            for name, value in zip(self.names, of_classes.tolist(), strict=True):
                figures[f"AP-{name}"] = value
            figures = {name: checked(100 * value, name) for name, value in figures.items()}
            results[kind] = figures | {"num_images": num_images}
        return results

    def _detections(self, image: Any, instances: Instances | None) -> Detections:
        size = self._size(image)
        if instances is None or not len(instances):
            return Detections([], [], np.zeros((0, 4)), np.zeros((0, *size), dtype=bool))
        classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
        boxes = instances.pred_boxes.tensor.cpu().numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]  # corners -> corner and sides
        masks = instances.pred_masks
        if masks.dtype != torch.bool:
            masks = masks.to(torch.uint8) > 0  # as Detectron2: below 1 is outside
        strangers = [category for category in classes if not 0 <= category < len(self.names)]
        if strangers:
            raise EvaluationError(
                f"a predicted instance has class {strangers[0]}, outside the classes "
                f"0..{len(self.names) - 1}"
            )
        if not np.isfinite(scores).all():
            raise EvaluationError("the score of a predicted instance is not finite")
        if not np.isfinite(boxes).all():
            raise EvaluationError("the box of a predicted instance is not finite")
        if tuple(masks.shape[1:]) != size:
            raise EvaluationError(
                f"a predicted mask is {tuple(masks.shape[1:])}, the truth {size} (height, width): "
                "predict at the size of the image file"
            )
        return Detections(classes, scores, boxes, masks.cpu().numpy())


def _require_same(images: set[Any], listed: set[Any], dataset: str, file: str) -> None:
    odd = sorted(images ^ listed)
    if odd:
        has, lacks = (dataset, file) if odd[0] in images else (file, dataset)
        raise EvaluationError(
            f"image {odd[0]} is in {has} but not in {lacks}: both must hold the same images "
            f"({len(images)} and {len(listed)})"
        )
