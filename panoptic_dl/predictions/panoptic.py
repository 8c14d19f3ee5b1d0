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
from panoptic_dl.core.images import ids_to_colors, picture_ids, read_panoptic_ids
from panoptic_dl.evaluation.evaluator import errors_name, require_size
from panoptic_dl.evaluation.panoptic import PanopticMap, number_segments
from panoptic_dl.predictions.dataset import (
    PredictedDataset,
    Reader,
    entries_by_image,
    path_inside,
    read_predictions,
    require_entries,
)
from panoptic_dl.predictions.writer import Formats, PredictionWriter, Written, write_png

PanopticSeg = tuple[Tensor, list[dict[str, Any]] | None]
"""As Detectron2's models return it, see `predicted_panoptic`."""


def picture_folder(file: Path) -> Path:
    """Where the pictures of a panoptic JSON file lie: in the folder of its name, or next to it."""
    own = file.with_suffix("")
    return own if own.is_dir() else file.parent


def _reader(dataset: PredictedDataset, file: Path) -> Reader:
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


class _Writer(PredictionWriter):
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


FORMATS: Formats = {"panoptic": (_reader, _Writer)}
