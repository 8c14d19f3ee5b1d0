"""`predictions=FOLDER`: saved predictions in the place of a model.

Shapes: H W pixels.

Panoptic predictions in COCO's format, image by image.

Shapes: H W pixels.
"""

from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import inside
from panoptic_dl.core.images import read_panoptic_ids
from panoptic_dl.evaluation.panoptic import NUM_IDS
from panoptic_dl.predictions.cityscapes import CityscapesInstanceFiles, CityscapesSemanticFiles
from panoptic_dl.predictions.coco import CocoInstanceFile, CocoSemanticFile
from panoptic_dl.predictions.dataset import (
    KINDS,
    PredictedDataset,
    entries_of,
    find_city_files,
    find_json,
    look_up,
    picture_folder,
    read_json,
    require_size,
    size_of,
)

UNKNOWN, VOID, FIRST = range(3)  # what the table of ids holds; FIRST + label
KEYS = {"image_id": (int, str), "file_name": (str,), "segments_info": (list,)}


class PanopticFiles:
    """The panoptic predictions of a JSON file and its pictures."""

    def __init__(self, dataset: PredictedDataset, file: Path) -> None:
        """Read the JSON file.

        Raises:
            EvaluationError: it is torn or no result file, or an image comes twice.
        """
        self._dataset, self._file, self._folder = dataset, file, picture_folder(file)
        self._contiguous = dataset.contiguous
        content = read_json(file)
        if not isinstance(content, dict) or "annotations" not in content:
            raise EvaluationError(
                f'{file} has no "annotations": it is no panoptic result in COCO\'s format'
            )
        self._entries: dict[Hashable, dict[str, Any]] = {}
        for entry in entries_of(file, content["annotations"], KEYS):
            if entry["image_id"] in self._entries:
                raise EvaluationError(
                    f"{file} lists image {entry['image_id']} twice; keep one prediction"
                )
            self._entries[entry["image_id"]] = entry

    def read(self, image: Hashable, size: tuple[int, int]) -> Tensor:
        """The panoptic map of an image: (H, W) int64 of category * label_divisor + instance.

        It is -1 where void. Ids that are such a number + 1, as Detectron2 and this package write
        them, keep their instance; others are counted, things from 1 and stuff from 0.

        Raises:
            EvaluationError: there is none; picture and list do not fit; a category is unknown.
        """
        entry = self._entries.get(image)
        if entry is None:
            raise EvaluationError(
                f"no prediction for image {image} in {self._file}, which has "
                f"{len(self._entries)} images; predict the whole split"
            )
        picture = inside(self._folder, self._folder, entry["file_name"], self._file)
        ids = read_panoptic_ids(picture)
        require_size(picture, ids.shape, size)
        labels = self._labels(self._categories(entry, picture), picture)
        table = np.zeros(NUM_IDS, dtype=np.int64)  # the system makes the pages that are used
        table[0] = VOID
        table[list(labels)] = np.fromiter(labels.values(), np.int64, len(labels)) + FIRST
        found = table[ids]
        if (found == UNKNOWN).any():
            raise EvaluationError(
                f"{picture} holds segment {int(ids[found == UNKNOWN][0])}, which {self._file} does "
                "not list; predict again, or take both from one run"
            )
        seen = np.zeros(NUM_IDS, dtype=bool)
        seen[ids] = True
        for number in labels:
            if not seen[number]:
                raise EvaluationError(
                    f"{self._file} lists segment {number} of image {image}, which has no pixel in "
                    f"{picture}; predict again, or take both from one run"
                )
        return torch.from_numpy(found - FIRST)

    def _categories(self, entry: Mapping[str, Any], picture: Path) -> dict[int, int]:
        """Contiguous category of each segment."""
        categories: dict[int, int] = {}
        keys = {"id": (int,), "category_id": (int,)}
        for segment in entries_of(self._file, entry["segments_info"], keys):
            number, category = segment["id"], segment["category_id"]
            where = f"{self._file}: segment {number} of {picture.name}"
            if not 0 < number < NUM_IDS or number in categories:
                raise EvaluationError(
                    f"{where} is listed twice, or outside 1..{NUM_IDS - 1}; 0 is void"
                )
            if category not in self._contiguous:
                raise EvaluationError(
                    f"{where} has the unknown category {category}: {self._dataset.advice()}"
                )
            categories[number] = self._contiguous[category]
        return categories

    def _labels(self, categories: Mapping[int, int], picture: Path) -> dict[int, int]:
        """category * label_divisor + instance of each segment."""
        divisor = self._dataset.label_divisor
        if all((number - 1) // divisor == category for number, category in categories.items()):
            return {number: number - 1 for number in categories}
        things = self._dataset.things or frozenset()
        following = {category: int(category in things) for category in self._contiguous.values()}
        labels = {}
        for number, category in categories.items():
            if following[category] >= divisor:
                raise EvaluationError(
                    f"{picture} has more than {divisor} segments of category "
                    f"{self._dataset.dataset_ids[category]}: label_divisor={divisor} leaves no "
                    "numbers for them; register the dataset with a larger one"
                )
            labels[number] = category * divisor + following[category]
            following[category] += 1
        return labels


class Reader(Protocol):
    """Reads one kind of predictions."""

    def read(self, image: Any, size: tuple[int, int]) -> Any:
        """The prediction of one image of the size (height, width)."""


class PredictionFolder:
    """Called with a model's input, returns what the model would: predictions from files.

    The files are those that `saving` writes, or of the same formats by others (`search` says under
    which names). JSON files are read once, pictures and texts when their image comes.

    Attributes:
        kinds: the kinds found, of "panoptic", "instances" and "semantic".
    """

    def __init__(self, dataset: str, folder: str | Path, kinds: Collection[str] = KINDS) -> None:
        """Look for predictions, and read JSON files.

        Args:
            dataset: that they are of; see `saving`. One of the semantic task takes "semantic" only.
            folder: that holds `<kind>/`, or the files themselves.
            kinds: that are looked for.

        Raises:
            EvaluationError: there is nothing, or several files that could be meant; a JSON file
                is torn.
        """
        predicted, place = look_up(dataset), Path(folder)
        if not place.is_dir():
            raise EvaluationError(f"there is no folder {place}: name that of saved predictions")
        self._dataset = predicted
        self._readers: dict[str, Reader] = {}
        for kind in KINDS if predicted.things is not None else ("semantic",):
            reader = _reader(predicted, place, kind) if kind in kinds else None
            if reader is not None:
                self._readers[kind] = reader
        self.kinds = tuple(self._readers)
        if not self.kinds:
            raise EvaluationError(_nothing(predicted, place))

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Read the predictions of one image.

        Args:
            item: a model's input: "image_id" (COCO), "file_name", and, if known, "height" and
                "width" of the image file.

        Returns:
            As far as found, "panoptic_seg": ((H, W) int64 of category * label_divisor + instance,
            -1 where void, and None); "instances": Detectron2's, see the readers; "sem_seg": (H, W)
            int64 classes, -1 where there is none.

        Raises:
            EvaluationError: names the file that does not fit.
        """
        image = self._dataset.image(item)
        output: dict[str, Any] = {}
        if image not in self._dataset.images:
            raise EvaluationError(f"image {image} is none of {self._dataset.name}")
        size = size_of(item)
        for kind, reader in self._readers.items():
            prediction = reader.read(image, size)
            if kind == "panoptic":
                output["panoptic_seg"] = (prediction, None)
            else:
                output["sem_seg" if kind == "semantic" else "instances"] = prediction
        return output


def _reader(dataset: PredictedDataset, folder: Path, kind: str) -> Reader | None:
    if kind == "panoptic" or not dataset.cityscapes:
        file = find_json(folder, kind)
        if file is None:
            return None
        makers: dict[str, Callable[[PredictedDataset, Path], Reader]] = {
            "panoptic": PanopticFiles,
            "instances": CocoInstanceFile,
            "semantic": CocoSemanticFile,
        }
        return makers[kind](dataset, file)
    city_files = find_city_files(dataset, folder, kind)
    if city_files is None:
        return None
    if kind == "instances":
        return CityscapesInstanceFiles(dataset, city_files)
    return CityscapesSemanticFiles(dataset, city_files)


def _nothing(dataset: PredictedDataset, folder: Path) -> str:
    if any(folder.rglob(".*.part[0-9]*")):
        return f"the evaluation that saved predictions in {folder} did not end: evaluate again"
    files = "panoptic/*.json"
    if dataset.cityscapes:
        files += ", instances/<image id>*.txt, semantic/<image id>*.png"
    else:
        files += ", instances/*.json, semantic/*.json"
    if dataset.things is None:
        files = files.rpartition(", ")[2]
    return (
        f"no predictions for {dataset.name} in {folder}: looked there for {files}, and for files "
        "of these formats in the folder itself"
    )
