"""Panoptic predictions in COCO's format, for COCO and Cityscapes alike.

    COCO:        panoptic_<split>_panoptic-dl_results.json and a folder of that name, <image>.png
    Cityscapes:  cityscapes_panoptic_<split>.json and a folder of that name, <image id>_panoptic.png

A pixel's segment is R + 256 G + 256^2 B, 0 where void; the JSON file says its category, an id of
the dataset. Shapes: H W pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.segment_matching import NUM_IDS
from panoptic_dl.evaluation.stream import naming
from panoptic_dl.prediction_files.dataset import PredictedDataset
from panoptic_dl.prediction_files.files import write_png
from panoptic_dl.prediction_files.parts import JsonParts
from panoptic_dl.prediction_files.writer import PredictionWriter


@dataclass(frozen=True)
class Taken:
    """A panoptic map of one image, as `PanopticWriter.take` gets it."""

    image: Any
    panoptic: np.ndarray
    segments: list[dict[str, Any]] | None


class PanopticWriter(PredictionWriter[Taken, dict[str, Any]]):
    """Writes "panoptic_seg".

    That is (H, W) of category * label_divisor + instance, -1 where void, and None; or (H, W) ids, 0
    where void, and Detectron2's list of segments.
    """

    needs = "panoptic_seg"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """See `PredictionWriter`."""
        if dataset.cityscapes:  # where its script looks when it is not told
            name, suffix = f"cityscapes_panoptic_{dataset.split}", "_panoptic.png"
        else:
            name, suffix = f"panoptic_{dataset.split}_panoptic-dl_results", ".png"
        parts = JsonParts(folder / f"{name}.json", '{"annotations": [', "]}")
        super().__init__(dataset, folder, [parts])
        self._pictures = folder / name
        self._names = {image: stem + suffix for image, stem in dataset.images.items()}
        self._own = {f"{name}/{picture}" for picture in self._names.values()}
        self._contiguous = dataset.contiguous

    def folders(self) -> list[Path]:
        """That of the pictures."""
        return [self._pictures]

    def is_own(self, name: str) -> bool:
        """A picture of one of the images."""
        return name in self._own

    def expected(self) -> list[Path]:
        """A picture of each image."""
        return [self._pictures / name for name in self._names.values()]

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> Taken:
        """Move the map to the CPU."""
        image = self.begin(item, output, required=True)
        panoptic, segments = output["panoptic_seg"]
        return Taken(image, panoptic.cpu().numpy().copy(), segments)

    def compare(self, taken: Taken) -> dict[str, Any]:
        """Write the picture; return the image's entry of the JSON file."""
        with naming(taken.image):
            if taken.segments is None:
                ids, categories = self._from_map(taken.panoptic)
            else:
                ids, categories = self._from_list(taken.panoptic, taken.segments)
        name = self._names[taken.image]
        write_png(self._pictures / name, id_colors(ids))
        segments = [
            {"id": number, "category_id": self.dataset.dataset_ids[category]}
            for number, category in categories.items()
        ]
        return {"image_id": taken.image, "file_name": name, "segments_info": segments}

    def add(self, compared: dict[str, Any]) -> None:
        """Write the entry."""
        self.parts[0].append(compared["image_id"], [compared])

    def _from_map(self, panoptic: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Ids, (H, W) with 0 for void, and the contiguous category of each."""
        divisor, num_classes = self.dataset.label_divisor, len(self.dataset.dataset_ids)
        lowest, highest = int(panoptic.min()), int(panoptic.max())
        if not -1 <= lowest <= highest < num_classes * divisor:
            odd = lowest if lowest < -1 else highest
            raise EvaluationError(
                f"predicted panoptic id {odd} is neither void (-1) nor one of {num_classes} "
                f"classes * {divisor} + instance"
            )
        if highest + 1 < NUM_IDS:
            ids = panoptic.astype(np.int64) + 1
            listed = np.flatnonzero(np.bincount(ids.reshape(-1)))
            listed = listed[listed > 0]
            labels = listed - 1
        else:  # too large for three colours: count
            labels = np.unique(panoptic)
            labels = labels[labels >= 0]
            listed = np.arange(1, len(labels) + 1)
            ids = np.where(panoptic < 0, 0, np.searchsorted(labels, panoptic) + 1)
        return ids, dict(zip(listed.tolist(), (labels // divisor).tolist(), strict=True))

    def _from_list(
        self, panoptic: np.ndarray, segments: list[dict[str, Any]]
    ) -> tuple[np.ndarray, dict[int, int]]:
        categories: dict[int, int] = {}
        for segment in segments:
            number, category = int(segment["id"]), int(segment["category_id"])
            if segment.get("isthing") is None:  # Detectron2: an id of the dataset
                category = self._contiguous.get(category, category)
            if category not in self.dataset.dataset_ids:
                raise EvaluationError(
                    f"predicted segment {number}: category {category} is outside the classes "
                    f"0..{len(self.dataset.dataset_ids) - 1}"
                )
            if not 0 < number < NUM_IDS or number in categories:
                raise EvaluationError(
                    f"predicted segment {number} is listed twice, or outside 1..{NUM_IDS - 1}"
                )
            categories[number] = category
        odd = sorted((set(np.unique(panoptic).tolist()) - {0}) ^ set(categories))
        if odd:
            place = "list but not in the map" if odd[0] in categories else "map but not in the list"
            raise EvaluationError(f"predicted segment {odd[0]} is in the {place}")
        return panoptic.astype(np.int64), categories


def id_colors(ids: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 of ids (H, W)."""
    return np.stack((ids & 255, (ids >> 8) & 255, (ids >> 16) & 255), axis=-1).astype(np.uint8)
