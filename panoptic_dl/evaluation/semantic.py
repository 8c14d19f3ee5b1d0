"""Intersection over union and accuracies, as Detectron2's `SemSegEvaluator` computes them.

A class that is predicted but absent from the ground truth of all images does not count in a mean:
so it is for COCO and all datasets without an official script. For Cityscapes, whose script counts
it as 0, see `cityscapes_semantic`. A class that is neither predicted nor true counts in neither.

Shapes: K classes, H W pixels.
"""

from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import Tensor

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, errors_name, require_size
from panoptic_dl.evaluation.metrics import percentages
from panoptic_dl.postprocess import argmax_classes

# Name of the image, and (H, W) int16 classes, K where there is none.
SemanticPrediction = tuple[str, np.ndarray]


class StreamingSemanticEvaluator(StreamingEvaluator[SemanticPrediction, Any]):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and those of each class, in percent.

    Outputs need "sem_seg", (K, H, W) scores at the size of the image file, or (H, W) classes.

    Attributes:
        names: K names of classes.
        confusions: after `evaluate`, in the main process: (K, K + 1) int64 pixels of each true
            class where each class is predicted, the last column none.
    """

    needs = "sem_seg"
    tasks = ("sem_seg",)

    def __init__(self, dataset: str) -> None:
        """`dataset`: in Detectron2's catalogs; metadata `stuff_classes` names all K classes."""
        metadata = MetadataCatalog.get(dataset)
        self.names = list(metadata.stuff_classes)
        self._read_truth = SemanticLabelReader(len(self.names), metadata.ignore_label)
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
        self._coverage = Coverage(self._records, dataset)
        self.reset()

    def reset(self) -> None:
        self._coverage.reset()
        # Rows: true classes, then ignored; columns: predicted classes, then none.
        self._counts = np.zeros((len(self.names) + 1, len(self.names) + 1), dtype=np.int64)
        self.confusions: np.ndarray | None = None

    def image_of(self, item: dict[str, Any]) -> Any:
        return item["file_name"]

    def truth_files(self, record: dict[str, Any]) -> Labels:
        if "sem_seg_file_name" in record:
            return [(record["sem_seg_file_name"], "label")]
        return [(record["pan_seg_file_name"], "panoptic")]

    def predicted(self, output: dict[str, Any]) -> np.ndarray:
        return predicted_labels(self._required(output), len(self.names), output.get("classes"))

    def match(self, prediction: SemanticPrediction) -> Any:
        """Count the confusions of one image, (K+1, K+1)."""
        image, classes = prediction
        num_classes = len(self.names)
        truth = self._read_truth(self._records[image]).astype(np.int64)
        with errors_name(f"image {image}"):
            truth[truth == self._read_truth.ignore_label] = num_classes
            return count_confusions(truth, classes, num_classes + 1, num_classes + 1)

    def update(self, match: Any) -> None:
        self._counts += match

    def quality(self, match: Any) -> float:
        """Mean IoU of one image over the classes in its ground truth, 0..1; NaN without any."""
        return semantic_metrics(match[:-1], self.names)["mIoU"]

    def as_output(self, prediction: SemanticPrediction) -> dict[str, Any]:
        """Classes, (H, W), K where there is none."""
        return {"sem_seg": torch.from_numpy(prediction[1])}

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Results of all processes, "sem_seg": mIoU, fwIoU, mACC, pACC, num_images, IoU-<class> and
        ACC-<class>.
        """
        (counts,), num_images = self._sum(self._counts)
        if not comm.is_main_process():
            return None
        self.confusions = counts[:-1]
        results = percentages(semantic_metrics(self.confusions, self.names))
        return {"sem_seg": results | {"num_images": num_images}}


def predicted_labels(scores: Tensor, num_classes: int, classes: Tensor | None = None) -> np.ndarray:
    """Classes of the highest scores, (H, W) int16, the first of equal ones; K where there is none.

    Args:
        scores: (K, H, W), on any device; or classes themselves, (H, W) integers, of which all that
            are outside 0..K-1 mean that the pixel has none.
        num_classes: K.
        classes: (H, W) int64 of the highest scores, where the model has found them.

    Raises:
        EvaluationError: there are not as many scores as classes, or one is not a number.
    """
    if scores.ndim == 2 and not scores.is_floating_point():
        given = scores.cpu().numpy().astype(np.int64)
        given[(given < 0) | (given >= num_classes)] = num_classes
        return given.astype(np.int16)
    if scores.ndim != 3 or len(scores) != num_classes:
        raise EvaluationError(
            f"sem_seg is {tuple(scores.shape)}, not ({num_classes}, height, width): one score for "
            "each class of the dataset, nor classes of (height, width)"
        )
    if classes is None:
        classes = argmax_classes(scores)
    if scores.gather(0, classes.unsqueeze(0)).isnan().any():  # for argmax, NaN is the highest
        raise EvaluationError("a score of sem_seg is not a number: the network has diverged")
    return classes.to(torch.int16).cpu().numpy()


def count_confusions(
    truth: np.ndarray, predicted: np.ndarray, num_true: int, num_predicted: int
) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        truth: (H, W) classes below `num_true`.
        predicted: (H, W) classes below `num_predicted`.

    Returns:
        (num_true, num_predicted) int64; row: true class, column: predicted class.

    Raises:
        EvaluationError: sizes differ, or a true class is outside.
    """
    require_size(predicted.shape, truth.shape)
    truth = truth.reshape(-1)
    if truth.size and not (truth.min() >= 0 and truth.max() < num_true):
        unknown = truth[(truth < 0) | (truth >= num_true)].min()
        raise EvaluationError(f"unknown label with id {unknown}, outside 0..{num_true - 1}")
    # The smaller the numbers, the faster.
    pairs = truth.astype(np.uint16 if num_true * num_predicted < 2**16 else np.int64)
    pairs *= num_predicted
    pairs += predicted.reshape(-1).astype(pairs.dtype)
    return np.bincount(pairs, minlength=num_true * num_predicted).reshape(num_true, num_predicted)


def semantic_metrics(counts: np.ndarray, names: list[str]) -> dict[str, float]:
    """Metrics in 0..1 from a table of confusions, (K, K + 1) int64, rows true, last column none.

    Returns:
        `mIoU`, the mean of tp / (tp + fp + fn) over classes that are in the ground truth; `fwIoU`,
        the same weighted by their pixels; `pACC`, the share of pixels that are right; `mACC`, the
        mean of tp / (tp + fn); IoU-<class> and ACC-<class>, NaN where that is not true.
    """
    right = counts.diagonal().astype(np.float64)
    true, predicted = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    there = true > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ious = np.where(there, right / (true + predicted - right), np.nan)
        accuracies = np.where(there, right / true, np.nan)
        weights = true / true.sum()
        number = there.sum()
        results = {
            "mIoU": ious[there].sum() / number,
            "fwIoU": (ious[there] * weights[there]).sum(),  # 0 without any, as in Detectron2
            "mACC": accuracies[there].sum() / number,
            "pACC": right.sum() / true.sum(),
        }
    results |= {f"IoU-{name}": value for name, value in zip(names, ious, strict=True)}
    results |= {f"ACC-{name}": value for name, value in zip(names, accuracies, strict=True)}
    return {name: float(value) for name, value in results.items()}
