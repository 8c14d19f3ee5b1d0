"""Detections and semantic predictions as the JSON files of COCO's servers: readers and writers.

    detections_<split>_panoptic-dl_results.json         masks
    boxes/detections_<split>_panoptic-dl_results.json   the same detections as boxes
    stuff_<split>_panoptic-dl_results.json              a mask for each class of an image

Masks are written without boxes, because pycocotools takes the areas of detections from boxes where
there are any, and APs of small, medium and large objects with them. Shapes: N instances, H W
pixels, K classes.
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

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.masks import decode_mask, encode_mask
from panoptic_dl.evaluation.evaluator import Detection
from panoptic_dl.predictions.dataset import (
    NUMBER,
    PredictedDataset,
    Reader,
    entries_by_image,
    make_instances,
    read_predictions,
)
from panoptic_dl.predictions.writer import Formats, PredictionWriter, Written

logger = logging.getLogger(__name__)

Entries = list[dict[str, Any]]

RESULTS = "_panoptic-dl_results.json"
MASK_TYPES: dict[str, tuple[type, ...]] = {"category_id": (int,)}
DETECTION_TYPES = MASK_TYPES | {"score": NUMBER}


def _instance_reader(dataset: PredictedDataset, file: Path) -> Reader:
    """Read the detections of a JSON file.

    Boxes are those of "bbox", or of the file of the same name in `boxes/` (the writer's), or around
    the masks. Areas are those of the masks, as in Detectron2; pycocotools' loadRes takes those of
    boxes where there are any, which changes the mask AP of small, medium and large instances.
    """
    classes = {dataset_id: index for index, dataset_id in dataset.instance_ids.items()}
    detections = entries_by_image(dataset, file, read_predictions(file), DETECTION_TYPES)
    every = [entry for entries in detections.values() for entry in entries]
    if every and not any("segmentation" in entry for entry in every):
        raise EvaluationError(
            f'{file} holds boxes and no masks ("segmentation"): name the file with the masks'
        )
    boxes = _read_boxes(dataset, file, detections)
    those = "around the masks" if boxes is None else "those of the file"
    found = f"{len(every)} detections in {len(detections)} of {len(dataset.images)} images"
    logger.info(f"{file}: {found}; boxes are {those}")

    def read(image: Hashable, size: tuple[int, int]) -> Instances:
        entries = detections.get(image, [])
        for entry in entries:
            if entry["category_id"] not in classes:
                raise EvaluationError(
                    f"{file}: a detection in image {image} has the unknown category "
                    f"{entry['category_id']}: {dataset.hint}"
                )
        return make_instances(
            [_decode(file, entry, size) for entry in entries],
            [classes[entry["category_id"]] for entry in entries],
            [float(entry["score"]) for entry in entries],
            size,
            boxes=None if boxes is None else boxes.get(image, []),
        )

    return read


def _semantic_reader(dataset: PredictedDataset, file: Path) -> Reader:
    """Read the semantic predictions of a JSON file: masks of classes."""
    contiguous_ids = dataset.contiguous_ids
    entries = entries_by_image(dataset, file, read_predictions(file), MASK_TYPES)

    def read(image: Hashable, size: tuple[int, int]) -> Tensor:
        if image not in entries:
            raise EvaluationError(
                f"no prediction for image {image} in {file}, which has {len(entries)} images of "
                "the dataset; predict the whole split"
            )
        classes = np.full(size, -1, dtype=np.int64)
        for entry in entries[image]:
            category = contiguous_ids.get(entry["category_id"])
            if category is None:
                raise EvaluationError(
                    f"{file}: a mask of image {image} has the unknown category "
                    f"{entry['category_id']}: {dataset.hint}"
                )
            mask = _decode(file, entry, size)
            others = classes[mask]
            if ((others >= 0) & (others != category)).any():
                raise EvaluationError(
                    f"{file}: masks of image {image} overlap, so that a pixel has several "
                    "classes; write each pixel into one"
                )
            classes[mask] = category
        return torch.from_numpy(classes)

    return read


def _decode(file: Path, entry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    try:
        return decode_mask(entry.get("segmentation"), size)
    except ValueError as error:
        raise EvaluationError(
            f"{file}, image {entry.get('image_id', entry.get('file_name'))}, category "
            f"{entry['category_id']}: {error}"
        ) from error


def _read_boxes(
    dataset: PredictedDataset, file: Path, detections: Mapping[Hashable, Entries]
) -> dict[Hashable, list[list[float]]] | None:
    """Boxes of the detections of each image, from their "bbox" or from our own file; or None."""
    source, entries = file, detections
    if not any("bbox" in entry for each in entries.values() for entry in each):
        source = file.parent / "boxes" / file.name
        if not source.is_file() or not entries:
            return None
        entries = entries_by_image(dataset, source, read_predictions(source), DETECTION_TYPES)
        of_boxes, of_masks = (
            [(image, e["category_id"], e["score"]) for image, of in each.items() for e in of]
            for each in (entries, detections)
        )
        if of_boxes != of_masks:
            raise EvaluationError(
                f"{source} has other detections than {file}: remove it, or save both again"
            )
    for image, each in entries.items():
        for box in (entry.get("bbox") for entry in each):
            numbers = box if isinstance(box, list) else []
            if [type(n) in NUMBER and math.isfinite(n) for n in numbers] != [True] * 4:
                raise EvaluationError(
                    f'{source}: a "bbox" in image {image} is {box}, not [left, top, width, height]'
                )
    return {image: [entry["bbox"] for entry in each] for image, each in entries.items()}


class _InstanceWriter(PredictionWriter):
    """Writes a file of masks and one of boxes; an image without instances has no entry."""

    needs = "instances"
    json_names = tuple(f"{folder}detections_{{}}{RESULTS}" for folder in ("", "boxes/"))

    def match(self, prediction: tuple[Any, list[Detection]]) -> Written:
        image, detections = prediction
        masks, boxes = [], []
        for each in detections:
            left, top, right, bottom = each.box.tolist()
            common = {"image_id": image, "category_id": each.category, "score": each.score}
            masks.append(common | {"segmentation": encode_mask(each.mask)})
            boxes.append(common | {"bbox": [left, top, right - left, bottom - top]})
        return image, (masks, boxes)


class _SemanticWriter(PredictionWriter):
    """Writes masks of classes; an empty mask of the first one says that an image was seen."""

    needs = "sem_seg"
    json_names = (f"stuff_{{}}{RESULTS}",)

    def match(self, prediction: tuple[Any, np.ndarray]) -> Written:
        image, classes = prediction
        ids = self.dataset.dataset_ids
        found = np.flatnonzero(np.bincount(classes.reshape(-1), minlength=len(ids) + 1)[:-1])
        entries = [
            {
                "image_id": image,
                "category_id": ids[category],
                "segmentation": encode_mask(classes == category),
            }
            for category in found.tolist() or [0]
        ]
        return image, [entries]


FORMATS: Formats = {
    "instances": (_instance_reader, _InstanceWriter),
    "semantic": (_semantic_reader, _SemanticWriter),
}
