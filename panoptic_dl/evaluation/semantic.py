"""Mean intersection over union for datasets without an official script, by Detectron2's evaluator.

Shapes: K classes, H W pixels.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from torch import Tensor

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.most_likely import most_likely
from panoptic_dl.evaluation.stream import naming

# Detectron2 logs all classes in one line as Python writes dictionaries.
_details = logging.getLogger(f"{__name__}.details")
_details.setLevel(logging.WARNING)


class SemanticEvaluator(SemSegEvaluator):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and the IoU of each class.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores, or (H, W) classes. A
    class that is not in the truth of any image does not count, even where it is predicted
    (Cityscapes' script counts it as 0); its own IoU is NaN.
    """

    def __init__(self, dataset: str, read_truth: Callable[[dict[str, Any]], np.ndarray]) -> None:
        """Look up the dataset.

        Args:
            dataset: a name in Detectron2's catalogs; metadata `stuff_classes` names all K classes.
            read_truth: returns the label of a record of the dataset: (H, W), class or ignored.
        """
        records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
        # Detectron2 wants a label file for each image; the image's own name is as good, for it only
        # hands it to the loading function.
        truth = f"{dataset} with labels from its records"
        metadata = MetadataCatalog.get(dataset)
        DatasetCatalog.register(
            truth, lambda: [{"file_name": name, "sem_seg_file_name": name} for name in records]
        )
        MetadataCatalog.get(truth).set(
            stuff_classes=metadata.stuff_classes, ignore_label=metadata.ignore_label
        )
        try:
            super().__init__(
                truth,
                sem_seg_loading_fn=lambda name, dtype: read_truth(records[name]).astype(dtype),
            )
        finally:
            DatasetCatalog.remove(truth)
            MetadataCatalog.remove(truth)
        self._logger = _details
        self._compute_boundary_iou = False  # a second metric that nobody asked for, and slow

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "sem_seg" of each output; classes become scores, 1 for the class and 0 for others.

        Raises:
            EvaluationError: a pixel has no class.
        """
        for item, output in zip(inputs, outputs, strict=True):
            scores = output["sem_seg"]
            if scores.ndim == 2:
                with naming(item["file_name"]):
                    scores = _one_hot(most_likely(scores, self._num_classes), self._num_classes)
            super().process([item], [{"sem_seg": scores}])

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[Any]:
        """Keep no predictions: they serve a file that is not written."""
        return []

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the figures; None but in the first process."""
        with np.errstate(divide="ignore", invalid="ignore"):  # truth that is void everywhere
            results = super().evaluate()
        if results is None:
            return None
        return {"sem_seg": {name: float(value) for name, value in results["sem_seg"].items()}}


def _one_hot(classes: np.ndarray, num_classes: int) -> Tensor:
    """Scores (K, H, W) uint8 of classes (H, W)."""
    if (classes == num_classes).any():
        raise EvaluationError(
            "a pixel has no class, which Detectron2's evaluator cannot express: its prediction is "
            "always one of the classes; leave out evaluation.official=true, ours count it as missed"
        )
    index = torch.from_numpy(classes.astype(np.int64)).unsqueeze(0)
    return torch.zeros(num_classes, *classes.shape, dtype=torch.uint8).scatter_(0, index, 1)
