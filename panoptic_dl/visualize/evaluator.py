"""Draw the first images of an evaluation as image | ground truth | prediction.

H W pixels. A panoptic map holds category * label_divisor + instance per pixel; -1 is void.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from panoptic_dl.core.images import (
    IGNORE_LABEL,
    VOID_LABEL,
    read_image,
    read_label_ids,
    read_panoptic_ids,
    segment_numbers,
)
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.sheets import Sample, make_sample, save_gallery, save_sheet
from panoptic_dl.visualize.style import class_colors


class PictureEvaluator(DatasetEvaluator):
    """An evaluator that measures nothing and leaves a picture."""

    def __init__(self, dataset: str, count: int, file: Path, gallery: Path | None = None) -> None:
        """
        Args:
            dataset: name in Detectron2's catalogs; the ground truth is read from its records.
            count: images drawn, the first that come.
            file: the PNG to write.
            gallery: a folder for the same pictures singly, as small JPEGs; None: none.
        """
        self.gallery = gallery
        self.dataset, self.count, self.file = dataset, count, file
        self.rows: list[list[NDArray[np.uint8]]] = []
        self.samples: list[Sample] = []  # the same images, for loggers

    def reset(self) -> None:
        self.rows = []
        self.samples = []
        self.metadata = MetadataCatalog.get(self.dataset)
        self.records = {r["file_name"]: r for r in DatasetCatalog.get(self.dataset)}
        self.names: list[str] = self.metadata.stuff_classes
        self.thing_ids = set(self.metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        self.label_divisor = int(self.metadata.get("label_divisor", 1000))
        self.drawer = SegmentDrawer(
            names=self.names,
            colors=class_colors(self.metadata, len(self.names)),
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
        )

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Draw inputs and outputs in Detectron2's formats until there are enough."""
        for record, output in zip(inputs, outputs, strict=True):
            if len(self.rows) >= self.count:
                return
            record = self.records[record["file_name"]]
            image = read_image(record["file_name"], "RGB")
            ground_truth = ground_truth_map(record, self.thing_ids, self.label_divisor)
            prediction = self._prediction(output)
            drawn = [self.drawer.panoptic(image, each) for each in (ground_truth, prediction)]
            self.rows.append([image, *drawn])
            name = Path(record["file_name"]).stem
            divisor = self.label_divisor
            self.samples.append(make_sample(name, image, ground_truth, prediction, divisor))

    def evaluate(self) -> dict[str, Any]:
        if self.rows:
            save_sheet(self.rows, ("image", "truth", "prediction"), self.file)
            if self.gallery is not None:
                save_gallery([each.name for each in self.samples], self.rows, self.gallery)
        return {}

    def _prediction(self, output: dict[str, Any]) -> NDArray[np.int64]:
        if "panoptic_seg" in output:
            return output["panoptic_seg"][0].cpu().numpy().astype(np.int64)
        semantic = output["sem_seg"]
        if semantic.ndim == 3:
            semantic = semantic.argmax(dim=0)
        classes = semantic.cpu().numpy().astype(np.int64)
        is_class = (classes >= 0) & (classes < len(self.names))
        return np.where(is_class, classes * self.label_divisor, VOID_LABEL)


def ground_truth_map(
    record: dict[str, Any], thing_ids: Collection[int], label_divisor: int
) -> NDArray[np.int64]:
    """The panoptic map (H, W) of a dataset record; stuff is instance 0, as is all without segments.

    Args:
        record: in Detectron2's dataset format, with `pan_seg_file_name` and `segments_info`
            (contiguous category ids), or with `sem_seg_file_name` (255 is void).
        thing_ids: contiguous ids of the classes with instances.
        label_divisor: of panoptic maps.
    """
    if "pan_seg_file_name" not in record:
        classes = read_label_ids(record["sem_seg_file_name"]).astype(np.int64)
        return np.where(classes == IGNORE_LABEL, VOID_LABEL, classes * label_divisor)
    ids = read_panoptic_ids(record["pan_seg_file_name"])
    segments = record["segments_info"]
    labels = [VOID_LABEL]
    for number, segment in enumerate(segments, start=1):
        category = segment["category_id"]
        labels.append(category * label_divisor + (number if category in thing_ids else 0))
    numbers = segment_numbers(ids, [segment["id"] for segment in segments])
    return np.array(labels, np.int64)[numbers]
