"""Instances and semantic predictions as Cityscapes' scripts read them, image by image.

Shapes: N instances, H W pixels.

Instances and semantic predictions as Cityscapes' scripts and server read them.

    instances/<image id>_pred.txt                  lines of mask file, label id and confidence
    instances/masks/<image id>_<number>.png        0 or 255
    semantic/<image id>_pred_labelIds.png          label ids; 0 (unlabeled) where there is no class

Shapes: H W pixels, K = 19 classes.
"""

import logging
import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import inside, write_png, write_prediction_text
from panoptic_dl.core.images import no_truncated_images, read_label_ids, unreadable
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, LABELS, to_label_ids
from panoptic_dl.evaluation.evaluator import naming
from panoptic_dl.evaluation.semantic import most_likely
from panoptic_dl.predictions.dataset import (
    AGAIN,
    CityFiles,
    PredictedDataset,
    one_file,
    require_size,
)
from panoptic_dl.predictions.masks import TakenInstances, make_instances, take_instances
from panoptic_dl.predictions.writer import PredictionWriter, TakenClasses

logger = logging.getLogger(__name__)

VEHICLES = [each.id for each in LABELS.values() if each.ignoreInEval and each.category == "vehicle"]
EVALUATED_IDS = {label.id: label.trainId for label in EVALUATED}


class CityscapesInstanceFiles:
    """Texts that name masks, their label ids and confidences."""

    def __init__(self, dataset: PredictedDataset, files: CityFiles) -> None:
        """Remember where the files are."""
        self._files = files
        self._warned = False
        self._classes = {label: index for index, label in dataset.instance_ids.items()}
        self._advice = dataset.advice()

    def read(self, image: Hashable, size: tuple[int, int]) -> Instances:
        """The instances of an image, in the order of the text; none where it is empty.

        Predictions of labels that are not evaluated (a caravan) do not count, as in the script.

        Returns:
            `pred_masks` (N, H, W) bool, `pred_boxes` around them, `pred_classes` (N,) train ids,
            `scores` (N,) float64, exactly as written.

        Raises:
            EvaluationError: the text is missing or torn, or names a file outside of the folder; a
                mask cannot be read or is of another size; a label is unknown.
        """
        text = one_file(self._files, image, ".txt")
        masks, classes, scores = [], [], []
        seen: set[Path] = set()
        for number, line in enumerate(_lines(text), start=1):
            where = f"{text}, line {number}"
            name, label, score = _fields(line, where)
            file = inside(self._files[0], text.parent, name, text)
            if file in seen:
                raise EvaluationError(
                    f"{where}: {name} is named twice, and Cityscapes' script takes the last; give "
                    "each instance a mask of its own"
                )
            seen.add(file)
            if label not in LABELS:
                raise EvaluationError(f"{where}: unknown label id {label}: {self._advice}")
            self._warn(label, where)
            if label not in self._classes:
                continue
            masks.append(read_mask(file, size))
            classes.append(self._classes[label])
            scores.append(score)
        return make_instances(masks, classes, scores, size)

    def _warn(self, label: int, where: str) -> None:
        """Say, once, that a label has no instances, as Cityscapes' script sees it."""
        if not LABELS[label].hasInstances and not self._warned:
            self._warned = True
            logger.warning(
                "%s: label id %d (%s) has no instances and does not count: %s",
                where,
                label,
                LABELS[label].name,
                self._advice,
            )


class CityscapesSemanticFiles:
    """Pictures of label ids.

    What is not evaluated is no class. Cityscapes' script has one exception, which is warned of: in
    iIoU_sup, and nowhere else, a caravan or trailer is a wrong pixel of the category vehicle.
    """

    def __init__(self, dataset: PredictedDataset, files: CityFiles) -> None:
        """Remember where the files are."""
        self._files = files
        self._advice = dataset.advice()
        self._warned = False
        self._table = np.full(max(LABELS) + 1, -1, dtype=np.int64)
        for label, train_id in EVALUATED_IDS.items():
            self._table[label] = train_id

    def read(self, image: Hashable, size: tuple[int, int]) -> Tensor:
        """Train ids of an image, (H, W) int64, -1 where the label is not evaluated.

        Raises:
            EvaluationError: the picture is missing or torn, or of another size; a label is unknown.
        """
        file = one_file(self._files, image, ".png")
        labels = read_label_ids(file)
        require_size(file, labels.shape, size)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self._table):
            odd = low if low < 0 else high
            raise EvaluationError(f"{file}: unknown label id {odd}: {self._advice}")
        classes = self._table[labels]
        counts = np.bincount(labels.reshape(-1), minlength=len(self._table))
        if not self._warned:
            self._warn(file, counts)
        return torch.from_numpy(classes)

    def _warn(self, file: Path, counts: np.ndarray) -> None:
        """Say, once, what looks like another numbering, or is counted otherwise."""
        if counts[self._table < 0].sum() > counts.sum() / 2:
            self._warned = True
            odd = int(np.where(self._table < 0, counts, 0).argmax())
            logger.warning(
                "%s: more than half of the pixels have labels that are not evaluated, such as %d "
                "(%s): %s",
                file,
                odd,
                LABELS[odd].name,
                self._advice,
            )
        elif counts[VEHICLES].any():
            self._warned = True
            logger.warning(
                "%s: caravans and trailers are no class here; Cityscapes' script counts them as "
                "vehicles in iIoU_sup, which will differ there",
                file,
            )


def read_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a mask: (H, W) bool, True where the grey value is not 0, as Cityscapes' script has it.

    Raises:
        EvaluationError: it cannot be read, or is of another size.
    """
    try:
        with no_truncated_images(), Image.open(file) as picture:
            pixels = np.asarray(picture.convert("L"))
    except (OSError, SyntaxError) as error:
        raise unreadable([file], error) from error
    require_size(file, pixels.shape, size)
    return pixels != 0


def _lines(text: Path) -> list[str]:
    try:
        return text.read_text().splitlines()
    except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise EvaluationError(f"cannot read {text} ({error}); {AGAIN}") from error


def _fields(line: str, where: str) -> tuple[str, int, float]:
    """File, label id and confidence of a line."""
    fields = line.split(" ")
    try:
        name, label, score = fields[0], float(fields[1]), float(fields[2])
        if len(fields) != 3 or not name or label != int(label) or not math.isfinite(score):
            raise ValueError("fields that cannot be")
    except (ValueError, IndexError, OverflowError) as error:
        raise EvaluationError(
            f'{where}: {line!r} is not "mask.png labelId confidence", with single spaces; {AGAIN}'
        ) from error
    return name, int(label), score


MASKS = "masks"
INSTANCE_FILE = re.compile(rf"(?P<image>.+)_pred\.txt|{MASKS}/(?P<owner>.+)_\d+\.png")


class CityscapesInstanceWriter(PredictionWriter[TakenInstances, None]):
    """Writes "instances" with `pred_masks`, `pred_classes` (train ids) and `scores`, all digits."""

    needs = "instances"

    def folders(self) -> list[Path]:
        """That of the texts, and that of the masks."""
        return [self.folder, self.folder / MASKS]

    def is_own(self, name: str) -> bool:
        """A text or mask of one of the images."""
        found = INSTANCE_FILE.fullmatch(name)
        return found is not None and (found["image"] or found["owner"]) in self.dataset.images

    def expected(self) -> list[Path]:
        """A text for each image."""
        return [self._text(image) for image in self.dataset.images]

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> TakenInstances:
        """Move the instances to the CPU."""
        image = self.begin(item, output, required=False)
        with naming(image):
            return take_instances(image, output, self.dataset.instance_ids)

    def compare(self, taken: TakenInstances) -> None:
        """Write the masks, then the text that names them."""
        lines = []
        for number, (label, score, mask) in enumerate(
            zip(taken.categories, taken.scores, taken.masks, strict=True)
        ):
            name = f"{MASKS}/{taken.image}_{number:04d}.png"
            write_png(self.folder / name, mask.astype(np.uint8) * 255)
            lines.append(f"{name} {label} {score!r}\n")
        write_prediction_text(self._text(taken.image), "".join(lines))

    def add(self, compared: None) -> None:
        """There is nothing to count."""

    def _text(self, image: Any) -> Path:
        return self.folder / f"{image}_pred.txt"


class CityscapesSemanticWriter(PredictionWriter[TakenClasses, None]):
    """Writes "sem_seg": (K, H, W) scores of train ids, or (H, W) train ids, others meaning none."""

    needs = "sem_seg"

    def __init__(self, dataset: PredictedDataset, folder: Path) -> None:
        """See `PredictionWriter`."""
        super().__init__(dataset, folder)
        self._own = {self._name(image) for image in dataset.images}

    def folders(self) -> list[Path]:
        """That of the pictures."""
        return [self.folder]

    def is_own(self, name: str) -> bool:
        """A picture of one of the images."""
        return name in self._own

    def expected(self) -> list[Path]:
        """A picture of each image."""
        return [self.folder / name for name in sorted(self._own)]

    def take(self, item: dict[str, Any], output: dict[str, Any]) -> TakenClasses:
        """Find the class of each pixel."""
        image = self.begin(item, output, required=True)
        with naming(image):
            return TakenClasses(image, most_likely(output["sem_seg"], len(EVALUATED)))

    def compare(self, taken: TakenClasses) -> None:
        """Write the picture."""
        write_png(self.folder / self._name(taken.image), to_label_ids(taken.classes))

    def add(self, compared: None) -> None:
        """There is nothing to count."""

    def _name(self, image: Any) -> str:
        return f"{image}_pred_labelIds.png"
