"""Intersection over union and accuracies as a stream, as Detectron2's `SemSegEvaluator` has them.

A class that is predicted but absent from the truth of all images: Detectron2 leaves it out of the
mean, and so does this module, for COCO and all datasets without a script of their own. Cityscapes'
script counts it as 0: `streaming_cityscapes_semantic`, for Cityscapes. In both, a class that is
neither predicted nor true does not count.

Shapes: K classes, H W pixels.

How often each class was predicted where another is true.

Shapes: H W pixels, R true classes, C predicted classes.

The class of each pixel, from scores or classes that fit the dataset.

Shapes: K classes, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from torch import Tensor

from panoptic_dl.core.distributed import sum_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, naming
from panoptic_dl.evaluation.metrics import checked
from panoptic_dl.postprocess import most_likely_class


def count_confusions(
    truth: np.ndarray, predicted: np.ndarray, num_true: int, num_predicted: int
) -> np.ndarray:
    """Count the pixels of each pair of classes.

    Args:
        truth: (H, W) classes 0..R-1.
        predicted: (H, W) classes 0..C-1.
        num_true, num_predicted: R and C.

    Returns:
        (R, C) int64; row: true class, column: predicted class.

    Raises:
        EvaluationError: sizes differ, or a class of the truth is outside.
    """
    if truth.shape != predicted.shape:
        raise EvaluationError(
            f"the prediction is {predicted.shape}, the truth {truth.shape} (height, width): "
            "predict at the size of the image file"
        )
    truth = truth.reshape(-1).astype(np.int64, copy=False)
    if truth.size and not (truth.min() >= 0 and truth.max() < num_true):
        strangers = np.unique(truth[(truth < 0) | (truth >= num_true)]).tolist()
        raise EvaluationError(f"unknown label with id {strangers[0]}, outside 0..{num_true - 1}")
    pairs = truth * num_predicted
    pairs += predicted.reshape(-1)
    return np.bincount(pairs, minlength=num_true * num_predicted).reshape(num_true, num_predicted)


def most_likely(scores: Tensor, num_classes: int) -> np.ndarray:
    """Classes of the highest scores, (H, W) int16, the first of equal ones; K where there is none.

    Small numbers, for predictions wait to be compared.

    Args:
        scores: (K, H, W), on any device; or classes themselves, (H, W) integers, of which all that
            are outside 0..K-1 mean that the pixel has none.
        num_classes: K as it must be.

    Raises:
        EvaluationError: there are not as many scores as classes, or one is not a number.
    """
    if scores.ndim == 2 and not scores.is_floating_point():
        classes = scores.cpu().numpy().astype(np.int64)
        classes[(classes < 0) | (classes >= num_classes)] = num_classes
        return classes.astype(np.int16)
    if scores.ndim != 3 or len(scores) != num_classes:
        raise EvaluationError(
            f"sem_seg is {tuple(scores.shape)}, not ({num_classes}, height, width): one score for "
            "each class of the dataset, nor classes of (height, width)"
        )
    if torch.isnan(scores.max()):
        raise EvaluationError("a score of sem_seg is not a number: the network has diverged")
    return most_likely_class(scores).to(torch.int16).cpu().numpy()


@dataclass(frozen=True)
class Prediction:
    """Classes of one image, (H, W) int16, K where there is none."""

    image: str
    classes: np.ndarray


class StreamingSemanticEvaluator(StreamingEvaluator[Prediction, np.ndarray]):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and those of each class, in percent.

    Outputs need "sem_seg", (K, H, W) scores at the size of the image file, or (H, W) classes. The
    state is a (K+1, K+1) table of counts, and an integer an image.

    Attributes:
        names: K names of classes.
        confusions: after `evaluate`, in the first process: (K, K + 1) int64 pixels of each true
            class where each class is predicted, the last column none.
    """

    needs = "sem_seg"

    def __init__(
        self, dataset: str, read_truth: Callable[[dict[str, Any]], np.ndarray] | None = None
    ) -> None:
        """Look up the dataset.

        Args:
            dataset: a name in Detectron2's catalogs; metadata `stuff_classes` names all K classes.
            read_truth: returns the label of a record of the dataset: (H, W), class or ignored; by
                default a `SemanticLabelReader`.
        """
        metadata = MetadataCatalog.get(dataset)
        self.names = self._names = list(metadata.stuff_classes)
        self._ignore_label = metadata.ignore_label
        self._read_truth = read_truth or SemanticLabelReader(
            num_classes=len(self._names), ignore_label=self._ignore_label
        )
        self._records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
        self._coverage = Coverage(self._records, dataset)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._coverage.reset()
        # Rows: true classes, then ignored; columns: predicted classes, then none.
        self._counts = np.zeros((len(self._names) + 1, len(self._names) + 1), dtype=np.int64)
        self.confusions: np.ndarray | None = None

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Prediction:
        """Find the class of each pixel."""
        image = item["file_name"]
        self._coverage.add(image)
        with naming(image):
            return Prediction(image, most_likely(self.entry(output), len(self._names)))

    def compare(self, taken: Prediction) -> np.ndarray:
        """Count the confusions of one image, (K+1, K+1)."""
        num_classes = len(self._names)
        truth = self._read_truth(self._records[taken.image]).astype(np.int64)
        with naming(taken.image):
            if self._ignore_label != num_classes and (truth == num_classes).any():
                raise EvaluationError(f"unknown label with id {num_classes}")
            truth[truth == self._ignore_label] = num_classes
            return count_confusions(truth, taken.classes, num_classes + 1, num_classes + 1)

    def add(self, compared: np.ndarray) -> None:
        """Count the pixels of one image."""
        self._counts += compared

    def quality(self, compared: np.ndarray) -> float:
        """Mean IoU of one image over the classes in its truth, 0..1; NaN without any."""
        return semantic_figures(compared[:-1], self._names)["mIoU"]

    def as_output(self, taken: Prediction) -> dict[str, Any]:
        """Classes, (H, W), K where there is none."""
        return {"sem_seg": torch.from_numpy(taken.classes)}

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures from what all processes have seen; None but in the first of them.

        Returns:
            "sem_seg": mIoU, fwIoU, IoU-<class>, mACC, pACC, ACC-<class>, and the number of images.

        Raises:
            EvaluationError: in all processes, when an image has no prediction.
        """
        counts, seen = sum_over_processes(self._counts, self._coverage.seen)
        num_images = self._coverage.require_all(seen)
        if not comm.is_main_process():
            return None
        self.confusions = counts[:-1]
        figures = {
            name: checked(100 * value, name)
            for name, value in semantic_figures(counts[:-1], self._names).items()
        }
        return {"sem_seg": figures | {"num_images": num_images}}


def semantic_figures(counts: np.ndarray, names: list[str]) -> dict[str, float]:
    """Figures in 0..1 of a table of confusions, (K, K + 1) int64, rows true, last column none.

    Returns:
        `mIoU`, the mean of tp / (tp + fp + fn) over classes that are in the truth; `fwIoU`, the
        same weighted by their pixels; `pACC`, the share of pixels that are right; `mACC`, the mean
        of tp / (tp + fn); those of each class, NaN where it is not in the truth.
    """
    right = counts.diagonal().astype(np.float64)
    true, predicted = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
    there = true > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ious = np.where(there, right / (true + predicted - right), np.nan)
        accuracies = np.where(there, right / true, np.nan)
        weights = true / true.sum()
        number = there.sum()
        figures = {
            "mIoU": ious[there].sum() / number,
            "fwIoU": (ious[there] * weights[there]).sum(),  # 0 without any, as in Detectron2
            "mACC": accuracies[there].sum() / number,
            "pACC": right.sum() / true.sum(),
        }
    figures |= {f"IoU-{name}": value for name, value in zip(names, ious, strict=True)}
    figures |= {f"ACC-{name}": value for name, value in zip(names, accuracies, strict=True)}
    return {name: float(value) for name, value in figures.items()}
