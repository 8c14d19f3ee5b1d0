"""Instances and semantic predictions as Cityscapes' scripts and server read them.

    instances/<image id>_pred.txt                  lines of mask file, label id and confidence
    instances/masks/<image id>_<number>.png        0 or 255
    semantic/<image id>_pred_labelIds.png          label ids; 0 (unlabeled) where there is no class

Shapes: N instances, H W pixels, K = 19 classes.
"""

import logging
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import require_file
from panoptic_dl.core.images import open_image, read_label_ids
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, LABELS, to_label_ids
from panoptic_dl.evaluation.evaluator import Detection, require_size
from panoptic_dl.predictions.dataset import (
    READ_AGAIN,
    Formats,
    PredictedDataset,
    PredictionWriter,
    Reader,
    Written,
    make_instances,
    path_inside,
    write_png,
    write_prediction,
)

logger = logging.getLogger(__name__)

VEHICLES = [each.id for each in LABELS.values() if each.ignoreInEval and each.category == "vehicle"]
MASK_FOLDER = "masks"

FilesByImage = Mapping[Hashable, Sequence[Path]]


def _instance_reader(dataset: PredictedDataset, root: Path, files: FilesByImage) -> Reader:
    """Read texts that name masks below `root`, their label ids and confidences.

    Predictions of labels that are not evaluated (a caravan) do not count, as in the script.
    """
    train_ids = {label: index for index, label in dataset.instance_ids.items()}
    has_warned = False

    def read(image: Hashable, size: tuple[int, int]) -> Instances:
        nonlocal has_warned
        text = _only_file(root, files, image, ".txt")
        masks, classes, scores = [], [], []
        seen: set[Path] = set()
        try:
            require_file(text)
            lines = text.read_text().splitlines()
        except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise EvaluationError(f"cannot read {text} ({error}); {READ_AGAIN}") from error
        for number, line in enumerate(lines, start=1):
            where = f"{text}, line {number}"
            name, label, score = _parse(line, where)
            file = path_inside(root, text.parent, name, text)
            if file in seen:
                raise EvaluationError(
                    f"{where}: {name} is named twice, and Cityscapes' script takes the last; give "
                    "each instance a mask of its own"
                )
            seen.add(file)
            if label not in LABELS:
                raise EvaluationError(f"{where}: unknown label id {label}: {dataset.hint}")
            if not LABELS[label].hasInstances and not has_warned:  # in the eyes of the script
                has_warned = True
                logger.warning(
                    f"{where}: label id {label} ({LABELS[label].name}) has no instances and does "
                    f"not count: {dataset.hint}"
                )
            if label in train_ids:
                pixels = np.asarray(open_image(file).convert("L"))
                require_size(pixels.shape, size, file, "the image")
                masks.append(pixels != 0)  # as the script has it
                classes.append(train_ids[label])
                scores.append(score)
        return make_instances(masks, classes, scores, size)

    return read


def _semantic_reader(dataset: PredictedDataset, root: Path, files: FilesByImage) -> Reader:
    """Read pictures of label ids; a label that is not evaluated is no class.

    In one place the script differs: in iIoU_sup a caravan or trailer is a wrong pixel of vehicle.
    """
    train_ids = np.full(max(LABELS) + 1, -1, dtype=np.int64)
    for label in EVALUATED:
        train_ids[label.id] = label.trainId
    warned: set[str] = set()  # of what, once each: one does not hide the other

    def read(image: Hashable, size: tuple[int, int]) -> Tensor:
        file = _only_file(root, files, image, ".png")
        labels = read_label_ids(file)
        require_size(labels.shape, size, file, "the image")
        for odd in (int(labels.min()), int(labels.max())):
            if not 0 <= odd < len(train_ids):
                raise EvaluationError(f"{file}: unknown label id {odd}: {dataset.hint}")
        counts = np.bincount(labels.reshape(-1), minlength=len(train_ids))
        not_evaluated = np.where(train_ids < 0, counts, 0)
        odd = int(not_evaluated.argmax())
        if not_evaluated.sum() > counts.sum() / 2 and "not evaluated" not in warned:
            warned.add("not evaluated")
            logger.warning(
                f"{file}: more than half of the pixels have labels that are not evaluated, such as "
                f"{odd} ({LABELS[odd].name}): {dataset.hint}"
            )
        if counts[VEHICLES].any() and "vehicles" not in warned:
            warned.add("vehicles")
            logger.warning(
                f"{file}: caravans and trailers are no class here; Cityscapes' script counts them "
                "as vehicles in iIoU_sup, which will differ there"
            )
        return torch.from_numpy(train_ids[labels])

    return read


def _only_file(root: Path, files: FilesByImage, image: Hashable, suffix: str) -> Path:
    found = files.get(image, ())
    if not found:
        raise EvaluationError(
            f"no prediction for image {image}: no file {image}*{suffix} below {root}; predict the "
            "whole split"
        )
    if len(found) > 1:
        raise EvaluationError(
            f"several predictions for image {image}: {found[0]} and {found[1]}; keep one"
        )
    return found[0]


def _parse(line: str, where: str) -> tuple[str, int, float]:
    """File, label id and confidence of a line."""
    try:
        name, label_text, score_text = line.split(" ")
        label, score = float(label_text), float(score_text)
        if not name or label != int(label) or not math.isfinite(score):
            raise ValueError("fields that cannot be")
    except (ValueError, OverflowError) as error:
        raise EvaluationError(
            f'{where}: {line!r} is not "mask.png labelId confidence", with single spaces; '
            f"{READ_AGAIN}"
        ) from error
    return name, int(label), score


class _InstanceWriter(PredictionWriter):
    """Writes a text and masks for each image; scores have all digits."""

    needs = "instances"
    image_name = "{}_pred.txt"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        super().__init__(dataset, folder)
        self.folders.add(folder / MASK_FOLDER)

    def is_own(self, file: Path) -> bool:
        """A text or a mask of one of the images."""
        if file.parent != self.folder / MASK_FOLDER:
            return super().is_own(file)
        mask = re.fullmatch(r"(.+)_\d+\.png", file.name)
        return mask is not None and mask[1] in self.dataset.images

    def match(self, prediction: tuple[Any, list[Detection]]) -> Written:
        """Write the masks, then the text that names them."""
        image, detections = prediction
        lines = []
        for number, detection in enumerate(detections):
            name = f"{MASK_FOLDER}/{image}_{number:04d}.png"
            write_png(self.folder / name, detection.mask.astype(np.uint8) * 255)
            lines.append(f"{name} {detection.category} {detection.score!r}\n")
        write_prediction(self.image_files[image], "".join(lines).encode())
        return image, ()


class _SemanticWriter(PredictionWriter):
    """Writes a picture of label ids for each image."""

    needs = "sem_seg"
    image_name = "{}_pred_labelIds.png"

    def match(self, prediction: tuple[Any, np.ndarray]) -> Written:
        image, classes = prediction
        write_png(self.image_files[image], to_label_ids(classes))
        return image, ()


FORMATS: Formats = {
    "instances": (_instance_reader, _InstanceWriter),
    "semantic": (_semantic_reader, _SemanticWriter),
}
