"""Instances and semantic predictions as Cityscapes' scripts and server read them.

    instances/<image id>_pred.txt                  lines of mask file, label id and confidence
    instances/masks/<image id>_<number>.png        0 or 255
    semantic/<image id>_pred_labelIds.png          label ids; 0 (unlabeled) where there is no class

Shapes: H W pixels, K = 19 classes.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.evaluation.cityscapes_labels import EVALUATED, to_label_ids
from panoptic_dl.evaluation.most_likely import most_likely
from panoptic_dl.evaluation.stream import naming
from panoptic_dl.prediction_files.classes import TakenClasses
from panoptic_dl.prediction_files.dataset import PredictedDataset
from panoptic_dl.prediction_files.files import write_png, write_text
from panoptic_dl.prediction_files.instances import TakenInstances, take_instances
from panoptic_dl.prediction_files.writer import PredictionWriter

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
        write_text(self._text(taken.image), "".join(lines))

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
