"""Panoptic predictions in COCO's format, which COCO and Cityscapes share: reader and writer.

    COCO:        panoptic_<split>_panoptic-dl_results.json and a folder of that name, <image>.png
    Cityscapes:  cityscapes_panoptic_<split>.json and a folder of that name, <image id>_panoptic.png

A pixel's segment is R + 256 G + 256^2 B, 0 where void; the JSON file lists the category of each
segment, an id of the dataset. Shapes: H W pixels.
"""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import NUM_IDS, ids_to_colors, read_panoptic_ids, segment_numbers
from panoptic_dl.evaluation.evaluator import errors_name
from panoptic_dl.evaluation.panoptic import PanopticPrediction
from panoptic_dl.predictions.dataset import (
    PredictedDataset,
    Reader,
    path_inside,
    read_predictions,
    require_entries,
    require_size,
)
from panoptic_dl.predictions.writer import JsonParts, PredictionWriter, Written, write_png


def picture_folder(file: Path) -> Path:
    """Where the pictures of a panoptic JSON file lie: in the folder of its name, or next to it."""
    own = file.with_suffix("")
    return own if own.is_dir() else file.parent


def panoptic_reader(dataset: PredictedDataset, file: Path) -> Reader:
    """Read a JSON file of panoptic predictions; its pictures are read when their image comes.

    Returns:
        A function from an image to its panoptic map, (H, W) int64 of category * label_divisor +
        instance, -1 where void. Ids that are such a number + 1, as Detectron2 and this package
        write them, keep their instance; others are counted, things from 1 and stuff from 0. It
        raises `EvaluationError` where an image is missing, picture and list do not fit, or a
        category is unknown.

    Raises:
        EvaluationError: the file is torn or no result file, or an image comes twice.
    """
    content = read_predictions(file)
    if not isinstance(content, dict) or "annotations" not in content:
        raise EvaluationError(
            f'{file} has no "annotations": it is no panoptic result in COCO\'s format'
        )
    types = {"image_id": (int, str), "file_name": (str,), "segments_info": (list,)}
    entries: dict[Hashable, dict[str, Any]] = {}
    for entry in require_entries(file, content["annotations"], types):
        if entry["image_id"] in entries:
            raise EvaluationError(
                f"{file} lists image {entry['image_id']} twice; keep one prediction"
            )
        entries[entry["image_id"]] = entry
    folder = picture_folder(file)

    def read(image: Hashable, size: tuple[int, int]) -> Tensor:
        entry = entries.get(image)
        if entry is None:
            raise EvaluationError(
                f"no prediction for image {image} in {file}, which has {len(entries)} images; "
                "predict the whole split"
            )
        picture = path_inside(folder, folder, entry["file_name"], file)
        ids = read_panoptic_ids(picture)
        require_size(picture, ids.shape, size)
        categories = _categories(dataset, file, entry)
        labels = _labels(dataset, categories, picture)
        try:
            numbers = segment_numbers(ids, list(categories))
        except ValueError as error:  # more segments than 16 bits count
            raise EvaluationError(f"{picture}: {error}") from error
        unknown = ids[(numbers == 0) & (ids != 0)]
        if unknown.size:
            raise EvaluationError(
                f"{picture} holds segment {unknown[0]}, which {file} does not list; predict again, "
                "or take both from one run"
            )
        areas = np.bincount(numbers.reshape(-1), minlength=len(labels) + 1)
        for segment_id, area in zip(categories, areas[1:], strict=True):
            if not area:
                raise EvaluationError(
                    f"{file} lists segment {segment_id} of image {image}, which has no pixel in "
                    f"{picture}; predict again, or take both from one run"
                )
        return torch.from_numpy(np.array([-1, *labels], dtype=np.int64)[numbers])

    return read


def _categories(dataset: PredictedDataset, file: Path, entry: Mapping[str, Any]) -> dict[int, int]:
    """Contiguous category of each segment of an image's entry, by its id."""
    contiguous_ids = dataset.contiguous_ids
    categories: dict[int, int] = {}
    types = {"id": (int,), "category_id": (int,)}
    for segment in require_entries(file, entry["segments_info"], types):
        segment_id, category = segment["id"], segment["category_id"]
        where = f"{file}: segment {segment_id} of {Path(entry['file_name']).name}"
        if not 0 < segment_id < NUM_IDS or segment_id in categories:
            raise EvaluationError(
                f"{where} is listed twice, or outside 1..{NUM_IDS - 1}; 0 is void"
            )
        if category not in contiguous_ids:
            raise EvaluationError(f"{where} has the unknown category {category}: {dataset.hint}")
        categories[segment_id] = contiguous_ids[category]
    return categories


def _labels(dataset: PredictedDataset, categories: Mapping[int, int], picture: Path) -> list[int]:
    """category * label_divisor + instance of each segment."""
    divisor, things = dataset.label_divisor, dataset.things or frozenset()
    if all((segment - 1) // divisor == category for segment, category in categories.items()):
        return [segment - 1 for segment in categories]
    next_instance = {category: int(category in things) for category in categories.values()}
    labels = []
    for category in categories.values():
        if next_instance[category] >= divisor:
            raise EvaluationError(
                f"{picture} has more than {divisor} segments of category "
                f"{dataset.dataset_ids[category]}: label_divisor={divisor} leaves no numbers for "
                "them; register the dataset with a larger one"
            )
        labels.append(category * divisor + next_instance[category])
        next_instance[category] += 1
    return labels


class PanopticWriter(PredictionWriter[PanopticPrediction]):
    """Writes "panoptic_seg".

    That is (H, W) of category * label_divisor + instance, -1 where void, and None; or (H, W) ids, 0
    where void, and Detectron2's list of segments.
    """

    needs = "panoptic_seg"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        if dataset.is_cityscapes:  # the default names of its script
            name, suffix = f"cityscapes_panoptic_{dataset.split}", "_panoptic.png"
        else:
            name, suffix = f"panoptic_{dataset.split}_panoptic-dl_results", ".png"
        super().__init__(
            dataset,
            folder,
            image_files={i: folder / name / (stem + suffix) for i, stem in dataset.images.items()},
            json_files=[JsonParts(folder / f"{name}.json", '{"annotations": [', "]}")],
        )

    def extract(self, item: dict[str, Any], output: dict[str, Any]) -> PanopticPrediction:
        """Move the map to the CPU."""
        image = self.begin(item, output)
        panoptic, segments = output["panoptic_seg"]
        return image, panoptic.cpu().numpy().copy(), segments

    def match(self, prediction: PanopticPrediction) -> Written:
        image, panoptic, segments = prediction
        with errors_name(f"image {image}"):
            if segments is None:
                ids, categories = self._from_map(panoptic)
            else:
                ids, categories = panoptic, self._from_list(panoptic, segments)
        write_png(self.image_files[image], ids_to_colors(ids))
        segments_info = [
            {"id": segment_id, "category_id": self.dataset.dataset_ids[category]}
            for segment_id, category in categories.items()
        ]
        name = self.image_files[image].name
        entry = {"image_id": image, "file_name": name, "segments_info": segments_info}
        return image, [[entry]]

    def _from_map(self, panoptic: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
        """Ids, (H, W) with 0 for void, and the contiguous category of each."""
        divisor, num_classes = self.dataset.label_divisor, len(self.dataset.dataset_ids)
        lowest, highest = int(panoptic.min()), int(panoptic.max())
        if not -1 <= lowest <= highest < num_classes * divisor:
            raise EvaluationError(
                f"predicted panoptic id {lowest if lowest < -1 else highest} is neither void (-1) "
                f"nor one of {num_classes} classes * {divisor} + instance"
            )
        if highest + 1 < NUM_IDS:
            ids = panoptic.astype(np.int64) + 1
            listed = np.flatnonzero(np.bincount(ids.reshape(-1)))
            listed = listed[listed > 0]
            labels = listed - 1
        else:  # too large for three bytes: count
            labels = np.unique(panoptic)
            labels = labels[labels >= 0]
            listed = np.arange(1, len(labels) + 1)
            ids = np.where(panoptic < 0, 0, np.searchsorted(labels, panoptic) + 1)
        return ids, dict(zip(listed.tolist(), (labels // divisor).tolist(), strict=True))

    def _from_list(self, panoptic: np.ndarray, segments: list[dict[str, Any]]) -> dict[int, int]:
        """The contiguous category of each id of a map with Detectron2's list of segments."""
        contiguous_ids = self.dataset.contiguous_ids
        categories: dict[int, int] = {}
        for segment in segments:
            segment_id, category = int(segment["id"]), int(segment["category_id"])
            if segment.get("isthing") is None:  # Detectron2: an id of the dataset
                category = contiguous_ids.get(category, category)
            if category not in self.dataset.dataset_ids:
                raise EvaluationError(
                    f"predicted segment {segment_id}: category {category} is outside the classes "
                    f"0..{len(self.dataset.dataset_ids) - 1}"
                )
            if not 0 < segment_id < NUM_IDS or segment_id in categories:
                raise EvaluationError(
                    f"predicted segment {segment_id} is listed twice, or outside 1..{NUM_IDS - 1}"
                )
            categories[segment_id] = category
        odd = sorted((set(np.unique(panoptic).tolist()) - {0}) ^ set(categories))
        if odd:
            place = "list but not in the map" if odd[0] in categories else "map but not in the list"
            raise EvaluationError(f"predicted segment {odd[0]} is in the {place}")
        return categories
