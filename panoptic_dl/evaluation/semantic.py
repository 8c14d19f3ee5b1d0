"""Mean intersection over union for datasets without an official script, by Detectron2's evaluator.

Shapes: K classes, H W pixels.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator

# Detectron2 logs all classes in one line as Python writes dictionaries.
_details = logging.getLogger(f"{__name__}.details")
_details.setLevel(logging.WARNING)


class SemanticEvaluator(SemSegEvaluator):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and the IoU of each class.

    Outputs need "sem_seg", (K, H, W) scores at the size of the image file. A class that is not in
    the truth of any image does not count, even where it is predicted (Cityscapes' script counts it
    as 0); its own IoU is NaN.
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
