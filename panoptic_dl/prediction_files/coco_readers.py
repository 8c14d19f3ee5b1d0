"""Detections and semantic predictions in COCO's JSON formats, image by image.

Shapes: N instances, H W pixels.
"""

import logging
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.dataset import PredictedDataset
from panoptic_dl.prediction_files.instances import boxes_of
from panoptic_dl.prediction_files.masks import decode
from panoptic_dl.prediction_files.reading import entries_of, read_json

logger = logging.getLogger(__name__)

IMAGE, CATEGORY, NUMBER = (int, str), (int,), (int, float)  # types in JSON


class CocoInstanceFile:
    """The detections of a JSON file."""

    def __init__(self, dataset: PredictedDataset, file: Path) -> None:
        """Read the file.

        Raises:
            EvaluationError: it is torn or no result file; it holds boxes alone; none of its images
                is one of the dataset.
        """
        keys = {"image_id": IMAGE, "category_id": CATEGORY, "score": NUMBER}
        self._file = file
        self._classes = {dataset_id: index for index, dataset_id in dataset.instance_ids.items()}
        self._advice = dataset.advice()
        self._entries = _by_image(dataset, file, keys)

    def read(self, image: Hashable, size: tuple[int, int]) -> Instances:
        """The instances of an image, in the order of the file; none where it has no entry.

        Returns:
            `pred_masks` (N, H, W) bool, `pred_boxes` around them, `pred_classes` (N,), `scores`
            (N,) float64, exactly as written.

        Raises:
            EvaluationError: a mask is damaged or of another size; a category is unknown.
        """
        entries = self._entries.get(image, [])
        for entry in entries:
            if entry["category_id"] not in self._classes:
                raise EvaluationError(
                    f"{self._file}: a detection in image {image} has the unknown category "
                    f"{entry['category_id']}: {self._advice}"
                )
            if not math.isfinite(entry["score"]):
                raise EvaluationError(f"{self._file}: a score in image {image} is not finite")
        return make_instances(
            [_mask(self._file, entry, size) for entry in entries],
            [self._classes[entry["category_id"]] for entry in entries],
            [float(entry["score"]) for entry in entries],
            size,
        )


class CocoSemanticFile:
    """The semantic predictions of a JSON file: masks of classes."""

    def __init__(self, dataset: PredictedDataset, file: Path) -> None:
        """Read the file.

        Raises:
            EvaluationError: it is torn or no result file; none of its images is one of the dataset.
        """
        self._file, self._dataset = file, dataset
        self._contiguous = dataset.contiguous
        self._entries = _by_image(dataset, file, {"image_id": IMAGE, "category_id": CATEGORY})

    def read(self, image: Hashable, size: tuple[int, int]) -> Tensor:
        """Classes of an image, (H, W) int64, -1 where there is none.

        Raises:
            EvaluationError: the file has no entry of the image; a mask is damaged, of another size
                or overlaps another; a category is unknown.
        """
        if image not in self._entries:
            raise EvaluationError(
                f"no prediction for image {image} in {self._file}, which has "
                f"{len(self._entries)} images of the dataset; predict the whole split"
            )
        classes = np.full(size, -1, dtype=np.int64)
        for entry in self._entries[image]:
            category = self._contiguous.get(entry["category_id"])
            if category is None:
                raise EvaluationError(
                    f"{self._file}: a mask of image {image} has the unknown category "
                    f"{entry['category_id']}: {self._dataset.advice()}"
                )
            mask = _mask(self._file, entry, size)
            others = classes[mask]
            if ((others >= 0) & (others != category)).any():
                raise EvaluationError(
                    f"{self._file}: masks of image {image} overlap, so that a pixel has several "
                    "classes; write each pixel into one"
                )
            classes[mask] = category
        return torch.from_numpy(classes)


def make_instances(
    masks: list[np.ndarray], classes: list[int], scores: list[float], size: tuple[int, int]
) -> Instances:
    """Detectron2's `Instances` of an image of the size (height, width), maybe none."""
    pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    return Instances(
        size,
        pred_masks=pred_masks,
        pred_boxes=boxes_of(pred_masks),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float64),
    )


def _mask(file: Path, entry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    try:
        return decode(entry.get("segmentation"), size)
    except EvaluationError as error:
        raise EvaluationError(
            f"{file}, image {entry['image_id']}, category {entry['category_id']}: {error}"
        ) from error


def _by_image(
    dataset: PredictedDataset, file: Path, keys: Mapping[str, tuple[type, ...]]
) -> dict[Hashable, list[dict[str, Any]]]:
    """Entries of the file by image; those of images that the dataset lacks are reported."""
    found: dict[Hashable, list[dict[str, Any]]] = {}
    strangers = set()
    entries = entries_of(file, read_json(file), keys)
    for entry in entries:
        if entry["image_id"] in dataset.images:
            found.setdefault(entry["image_id"], []).append(entry)
        else:
            strangers.add(entry["image_id"])
    if strangers and not found:
        raise EvaluationError(
            f"{file} has predictions for other images than those of {dataset.name}, such as "
            f"{sorted(strangers, key=str)[0]!r}; name predictions of this split"
        )
    if strangers:
        logger.warning(
            "%s has predictions for %d images that are not in %s, such as %s; they are left out",
            file,
            len(strangers),
            dataset.name,
            sorted(strangers, key=str)[0],
        )
    if keys.get("score") and entries and not any("segmentation" in e for e in entries):
        raise EvaluationError(
            f'{file} holds boxes and no masks ("segmentation"): name the file with the masks'
        )
    return found
