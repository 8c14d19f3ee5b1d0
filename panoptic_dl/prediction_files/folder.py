"""`predictions=FOLDER`: saved predictions in the place of a model.

Shapes: H W pixels.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.cityscapes_readers import (
    CityscapesInstanceFiles,
    CityscapesSemanticFiles,
)
from panoptic_dl.prediction_files.coco_readers import CocoInstanceFile, CocoSemanticFile
from panoptic_dl.prediction_files.dataset import PredictedDataset, look_up
from panoptic_dl.prediction_files.panoptic_reader import PanopticFiles
from panoptic_dl.prediction_files.reading import size_of
from panoptic_dl.prediction_files.search import KINDS, find_city_files, find_json


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
