"""Detections and semantic predictions in COCO's JSON formats, image by image.

Shapes: N instances, H W pixels.

Detections and semantic predictions as the JSON files of COCO's servers.

    detections_<split>_panoptic-dl_results.json         masks
    boxes/detections_<split>_panoptic-dl_results.json   the same detections as boxes
    stuff_<split>_panoptic-dl_results.json              a mask for each class of an image

Masks stand without boxes, because pycocotools takes the sizes of detections from boxes where there
are any, and APs of small, medium and large objects with them. Shapes: H W pixels, K classes.
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
from panoptic_dl.evaluation.evaluator import naming
from panoptic_dl.evaluation.semantic import most_likely
from panoptic_dl.predictions.dataset import PredictedDataset, entries_of, read_json
from panoptic_dl.predictions.masks import (
    TakenInstances,
    decode,
    encode,
    make_instances,
    take_instances,
)
from panoptic_dl.predictions.writer import JsonParts, PredictionWriter, TakenClasses

logger = logging.getLogger(__name__)

IMAGE, CATEGORY, NUMBER = (int, str), (int,), (int, float)  # types in JSON


class CocoInstanceFile:
    """The detections of a JSON file.

    Their boxes are those of its "bbox"; else those of the file of the same name in `boxes/`, which
    `saving` writes; else boxes around the masks. Areas of instances are those of the masks, also
    where a "bbox" is there, as Detectron2 has it; pycocotools' loadRes then takes those of boxes,
    which changes the mask AP of small, medium and large instances.
    """

    def __init__(self, dataset: PredictedDataset, file: Path) -> None:
        """Read the file.

        Raises:
            EvaluationError: it is torn or no result file; it holds boxes alone; none of its images
                is one of the dataset; the file of boxes has other detections.
        """
        keys = {"image_id": IMAGE, "category_id": CATEGORY, "score": NUMBER}
        self._file = file
        self._classes = {dataset_id: index for index, dataset_id in dataset.instance_ids.items()}
        self._advice = dataset.advice()
        self._entries = _by_image(dataset, file, keys)
        self._boxes = _boxes_of(dataset, file, self._entries, keys)
        logger.info(
            "%s: %d detections in %d of %d images; boxes are %s",
            file,
            sum(map(len, self._entries.values())),
            len(self._entries),
            len(dataset.images),
            "around the masks" if self._boxes is None else "those of the file",
        )

    def read(self, image: Hashable, size: tuple[int, int]) -> Instances:
        """The instances of an image, in the order of the file; none where it has no entry.

        Returns:
            `pred_masks` (N, H, W) bool, `pred_boxes` (float32), `pred_classes` (N,), `scores` (N,)
            float64, exactly as written.

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
            boxes=None if self._boxes is None else self._boxes.get(image, []),
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


def _mask(file: Path, entry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    try:
        return decode(entry.get("segmentation"), size)
    except EvaluationError as error:
        raise EvaluationError(
            f"{file}, image {entry['image_id']}, category {entry['category_id']}: {error}"
        ) from error


def _boxes_of(
    dataset: PredictedDataset,
    file: Path,
    detections: Mapping[Hashable, list[dict[str, Any]]],
    keys: Mapping[str, tuple[type, ...]],
) -> dict[Hashable, list[list[float]]] | None:
    """Boxes of the detections of each image, from their "bbox" or from our file beside; or None."""
    source, entries = file, dict(detections)
    beside = file.parent / "boxes" / file.name
    if not any("bbox" in entry for each in entries.values() for entry in each):
        if not beside.is_file() or not entries:
            return None
        source, entries = beside, _by_image(dataset, beside, keys, masks=False)
        for image in {*entries, *detections}:
            pairs = [
                [(entry["category_id"], entry["score"]) for entry in each.get(image, [])]
                for each in (entries, detections)
            ]
            if pairs[0] != pairs[1]:
                raise EvaluationError(
                    f"{beside} has other detections in image {image} than {file}: remove it, or "
                    "save both again"
                )
    found: dict[Hashable, list[list[float]]] = {}
    for image, each in entries.items():
        found[image] = [entry.get("bbox") for entry in each]  # type: ignore[misc]
        for box in found[image]:
            if not (
                isinstance(box, list)
                and len(box) == 4
                and all(type(side) in NUMBER and math.isfinite(side) for side in box)
            ):
                raise EvaluationError(
                    f'{source}: a "bbox" in image {image} is {box}, not [left, top, width, height]'
                )
    return found


def _by_image(
    dataset: PredictedDataset,
    file: Path,
    keys: Mapping[str, tuple[type, ...]],
    *,
    masks: bool = True,
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
    if masks and keys.get("score") and entries and not any("segmentation" in e for e in entries):
        raise EvaluationError(
            f'{file} holds boxes and no masks ("segmentation"): name the file with the masks'
        )
    return found


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
