"""The labels of Cityscapes on disk, and which of their numbers mean what.

A pixel of an instanceIds file below 1000 is a label id: stuff, or a group of things that cannot be
told apart; others are label id * 1000 + number.
"""

from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import labels

from panoptic_dl.evaluation.figures import EvaluationError

LABELS = {label.id: label for label in labels if label.id >= 0}
NUM_LABELS = max(LABELS) + 1
EVALUATED = sorted(
    (label for label in LABELS.values() if not label.ignoreInEval), key=lambda label: label.trainId
)
"""Labels by train id, 0..18: the columns of predictions."""
INSTANCE_LABELS = [label for label in EVALUATED if label.hasInstances]
IGNORED = np.array([LABELS[i].ignoreInEval for i in range(NUM_LABELS)])
"""(34,) bool by label id."""


def find_labels(folder: str, suffix: str) -> dict[str, Path]:
    """Files `<city>/<image id><suffix>` below a split's folder, by image id.

    Raises:
        EvaluationError: there are none.
    """
    files = {image_id(file.name): file for file in sorted(Path(folder).glob(f"*/*{suffix}"))}
    if not files:
        raise EvaluationError(f"no <city>/*{suffix} below {folder}")
    return files


def image_id(file: str) -> str:
    """`<city>_<sequence>_<frame>`, from the name of an image or label file."""
    return "_".join(Path(file).name.split("_")[:3])


def to_label_ids(classes: np.ndarray) -> np.ndarray:
    """Label ids, uint8, of train ids of any shape; 0 (unlabeled) where it is none of 0..18."""
    table = np.zeros(len(EVALUATED) + 1, dtype=np.uint8)
    table[:-1] = [label.id for label in EVALUATED]
    valid = (classes >= 0) & (classes < len(EVALUATED))
    return table[np.where(valid, classes, len(EVALUATED))]
