"""Detections and semantic predictions as the JSON files of COCO's servers.

    detections_<split>_panoptic-dl_results.json         masks
    boxes/detections_<split>_panoptic-dl_results.json   the same detections as boxes
    stuff_<split>_panoptic-dl_results.json              a mask for each class of an image

Masks stand without boxes, because pycocotools takes the sizes of detections from boxes where there
are any, and APs of small, medium and large objects with them. Shapes: H W pixels, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.evaluation.most_likely import most_likely
from panoptic_dl.evaluation.stream import naming
from panoptic_dl.prediction_files.classes import TakenClasses
from panoptic_dl.prediction_files.dataset import PredictedDataset
from panoptic_dl.prediction_files.instances import TakenInstances, take_instances
from panoptic_dl.prediction_files.masks import encode
from panoptic_dl.prediction_files.parts import JsonParts
from panoptic_dl.prediction_files.writer import PredictionWriter

Entries = list[dict[str, Any]]


class CocoInstanceWriter(PredictionWriter[TakenInstances, tuple[Any, Entries, Entries]]):
    """Writes "instances" with `pred_masks`, `pred_classes`, `scores` and, if any, `pred_boxes`.

    Scores are written with all digits. An image without instances has no entry.
    """

    needs = "instances"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """See `PredictionWriter`."""
        name = f"detections_{dataset.split}_panoptic-dl_results.json"
        self._boxes = folder / "boxes"
        super().__init__(dataset, folder, [JsonParts(folder / name), JsonParts(self._boxes / name)])

    def folders(self) -> list[Path]:
        """That of the boxes, too."""
        return [self.folder, self._boxes]

    def is_own(self, name: str) -> bool:
        """There are no files but the JSON files."""
        return False

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> TakenInstances:
        """Move the instances to the CPU."""
        image = self.begin(item, output, required=False)
        with naming(image):
            return take_instances(image, output, self.dataset.instance_ids)

    def compare(self, taken: TakenInstances) -> tuple[Any, Entries, Entries]:
        """Encode the instances: the image, entries with masks, entries with boxes."""
        masks, boxes = [], []
        for category, score, mask, (left, top, right, bottom) in zip(
            taken.categories, taken.scores, taken.masks, taken.boxes.tolist(), strict=True
        ):
            common = {"image_id": taken.image, "category_id": category, "score": score}
            masks.append(common | {"segmentation": encode(mask)})
            boxes.append(common | {"bbox": [left, top, right - left, bottom - top]})
        return taken.image, masks, boxes

    def add(self, compared: tuple[Any, Entries, Entries]) -> None:
        """Write the entries."""
        image, *entries = compared
        for parts, mine in zip(self.parts, entries, strict=True):
            parts.append(image, mine)


class CocoSemanticWriter(PredictionWriter[TakenClasses, Entries]):
    """Writes "sem_seg": (K, H, W) scores, or (H, W) classes, all others meaning none.

    Where an image has no class anywhere, an empty mask of the first one says that it was seen.
    """

    needs = "sem_seg"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """See `PredictionWriter`."""
        name = f"stuff_{dataset.split}_panoptic-dl_results.json"
        super().__init__(dataset, folder, [JsonParts(folder / name)])

    def folders(self) -> list[Path]:
        """That of the file."""
        return [self.folder]

    def is_own(self, name: str) -> bool:
        """There are no files but the JSON file."""
        return False

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> TakenClasses:
        """Find the class of each pixel."""
        image = self.begin(item, output, required=True)
        with naming(image):
            return TakenClasses(
                image, most_likely(output["sem_seg"], len(self.dataset.dataset_ids))
            )

    def compare(self, taken: TakenClasses) -> Entries:
        """Encode the mask of each class."""
        ids = self.dataset.dataset_ids
        found = np.flatnonzero(np.bincount(taken.classes.reshape(-1), minlength=len(ids) + 1)[:-1])
        return [
            {
                "image_id": taken.image,
                "category_id": ids[category],
                "segmentation": encode(taken.classes == category),
            }
            for category in found.tolist() or [0]
        ]

    def add(self, compared: Entries) -> None:
        """Write the entries."""
        self.parts[0].append(compared[0]["image_id"], compared)
