"""Predictions as the files of COCO's servers: readers and writers.

    panoptic_<split>_panoptic-dl_results.json           and a folder of that name, <image>.png
    detections_<split>_panoptic-dl_results.json         masks
    boxes/detections_<split>_panoptic-dl_results.json   the same detections as boxes
    stuff_<split>_panoptic-dl_results.json              a mask for each class of an image

Panoptic predictions of Cityscapes have the same format: cityscapes_panoptic_<split>.json and a
folder of that name, <image id>_panoptic.png. A pixel's segment is R + 256 G + 256^2 B, 0 where
void; the JSON file lists the category of each segment, an id of the dataset.

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
from panoptic_dl.core.images import ids_to_colors, picture_ids, read_panoptic_ids
from panoptic_dl.core.masks import decode_mask, encode_mask
from panoptic_dl.evaluation.evaluator import Detection, errors_name, require_size
from panoptic_dl.evaluation.panoptic import PanopticMap, number_segments
from panoptic_dl.predictions.dataset import (
    NUMBER,
    Formats,
    PredictedDataset,
    PredictionWriter,
    Reader,
    Written,
    entries_by_image,
    make_instances,
    path_inside,
    read_predictions,
    require_entries,
    write_png,
)

logger = logging.getLogger(__name__)

Entries = list[dict[str, Any]]

RESULTS = "_panoptic-dl_results.json"
MASK_TYPES: dict[str, tuple[type, ...]] = {"category_id": (int,)}
DETECTION_TYPES = MASK_TYPES | {"score": NUMBER}


def _instance_reader(dataset: PredictedDataset, file: Path) -> Reader:
    """Read the detections of a JSON file.

    Boxes are those of "bbox", or around the masks, as those of our models are. Areas are those of
    the masks, as in Detectron2; pycocotools' loadRes takes those of boxes where there are any,
    which changes the mask AP of small, medium and large instances.
    """
    classes = {dataset_id: index for index, dataset_id in dataset.instance_ids.items()}
    detections = entries_by_image(dataset, file, read_predictions(file), DETECTION_TYPES)
    every = [entry for entries in detections.values() for entry in entries]
    if every and not any("segmentation" in entry for entry in every):
        raise EvaluationError(
            f'{file} holds boxes and no masks ("segmentation"): name the file with the masks'
        )
    boxes = _read_boxes(file, detections)
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
    file: Path, detections: Mapping[Hashable, Entries]
) -> dict[Hashable, list[list[float]]] | None:
    """Boxes of the detections of each image, from their "bbox"; None where they have none."""
    if not any("bbox" in entry for each in detections.values() for entry in each):
        return None
    for image, each in detections.items():
        for box in (entry.get("bbox") for entry in each):
            numbers = box if isinstance(box, list) else []
            if [type(n) in NUMBER and math.isfinite(n) for n in numbers] != [True] * 4:
                raise EvaluationError(
                    f'{file}: a "bbox" in image {image} is {box}, not [left, top, width, height]'
                )
    return {image: [entry["bbox"] for entry in each] for image, each in detections.items()}


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


PanopticSeg = tuple[Tensor, list[dict[str, Any]] | None]
"""As Detectron2's models return it, see `predicted_panoptic`."""


def picture_folder(file: Path) -> Path:
    """Where the pictures of a panoptic JSON file lie: in the folder of its name, or next to it."""
    own = file.with_suffix("")
    return own if own.is_dir() else file.parent


def _panoptic_reader(dataset: PredictedDataset, file: Path) -> Reader:
    """Read a JSON file of panoptic predictions; its pictures are read when their image comes."""
    content = read_predictions(file)
    if not isinstance(content, dict) or "annotations" not in content:
        raise EvaluationError(
            f'{file} has no "annotations": it is no panoptic result in COCO\'s format'
        )
    types = {"file_name": (str,), "segments_info": (list,)}
    entries = entries_by_image(dataset, file, content["annotations"], types)
    twice = next((image for image, listed in entries.items() if len(listed) > 1), None)
    if twice is not None:
        raise EvaluationError(f"{file} lists image {twice} twice; keep one prediction")
    folder = picture_folder(file)

    def read(image: Hashable, size: tuple[int, int]) -> PanopticSeg:
        if image not in entries:
            raise EvaluationError(
                f"no prediction for image {image} in {file}, which has {len(entries)} images of "
                "the dataset; predict the whole split"
            )
        (entry,) = entries[image]
        picture = path_inside(folder, folder, entry["file_name"], file)
        ids = read_panoptic_ids(picture)
        require_size(ids.shape, size, picture, "the image")
        categories, things = _categories(dataset, file, entry), dataset.things or ()
        with errors_name(picture):
            labels, divisor = number_segments(
                ids, categories, things=things, label_divisor=dataset.label_divisor
            )
        if divisor == dataset.label_divisor:
            return torch.from_numpy(labels), None
        return torch.from_numpy(ids.astype(np.int64)), [
            {"id": number, "category_id": category, "isthing": category in things}
            for number, category in categories.items()
        ]

    return read


def _categories(dataset: PredictedDataset, file: Path, entry: Mapping[str, Any]) -> dict[int, int]:
    """Contiguous category of each segment of an image's entry, by its id."""
    contiguous_ids = dataset.contiguous_ids
    categories: dict[int, int] = {}
    types = {"id": (int,), "category_id": (int,)}
    for segment in require_entries(file, entry["segments_info"], types):
        segment_id, category = segment["id"], segment["category_id"]
        where = f"{file}: segment {segment_id} of {Path(entry['file_name']).name}"
        if segment_id in categories:
            raise EvaluationError(f"{where} is listed twice")
        if category not in contiguous_ids:
            raise EvaluationError(f"{where} has the unknown category {category}: {dataset.hint}")
        categories[segment_id] = contiguous_ids[category]
    return categories


class _PanopticWriter(PredictionWriter):
    """Writes a PNG for each image, and a list of segments for all."""

    needs = "panoptic_seg"
    json_frame = ('{"annotations": [', "]}")

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        if dataset.is_cityscapes:  # the default names of its script
            name, suffix = f"cityscapes_panoptic_{dataset.split}", "_panoptic.png"
        else:
            name, suffix = f"panoptic_{dataset.split}_panoptic-dl_results", ".png"
        self.image_name, self.json_names = f"{name}/{{}}{suffix}", [f"{name}.json"]
        super().__init__(dataset, folder)

    def match(self, prediction: tuple[Any, PanopticMap]) -> Written:
        image, (panoptic, divisor) = prediction
        dataset_ids = self.dataset.dataset_ids
        with errors_name(f"image {image}"):
            ids, numbers = picture_ids(panoptic, len(dataset_ids), divisor)
        write_png(self.image_files[image], ids_to_colors(ids))
        segments_info = [
            {"id": number, "category_id": dataset_ids[label // divisor]}
            for label, number in numbers.items()
        ]
        name = self.image_files[image].name
        entry = {"image_id": image, "file_name": name, "segments_info": segments_info}
        return image, [[entry]]


PANOPTIC: Formats = {"panoptic": (_panoptic_reader, _PanopticWriter)}
"""Also of Cityscapes."""

FORMATS: Formats = PANOPTIC | {
    "instances": (_instance_reader, _InstanceWriter),
    "semantic": (_semantic_reader, _SemanticWriter),
}
