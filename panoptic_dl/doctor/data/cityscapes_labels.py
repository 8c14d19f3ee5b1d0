"""The label files of Cityscapes against each other: they are all drawn from the same polygons.

Pixels of an instanceIds file below 1000 are label ids, others label id * 1000 + number. A panoptic
label has the same number where the label is evaluated, and 0 (void) elsewhere.
"""

from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label

from .difference import add_difference
from .opening import open_whole, why_not
from .report import ImageReport
from .segments import Segments

TRAIN_IDS = "_gtFine_labelTrainIds.png"
LABEL_IDS = "_gtFine_labelIds.png"
INSTANCE_IDS = "_gtFine_instanceIds.png"


def look_at_cityscapes(
    record: dict[str, Any],
    train_ids: np.ndarray,
    panoptic: np.ndarray | None,
    report: ImageReport,
) -> None:
    """Note where labelIds, labelTrainIds, instanceIds and panoptic labels disagree.

    Args:
        record: "sem_seg_file_name" is that of labelTrainIds; the others lie beside it.
        train_ids: (H, W) of that file.
        panoptic: (H, W) ids of "pan_seg_file_name", if there is such a label.
    """
    file = str(record["sem_seg_file_name"])
    if not file.endswith(TRAIN_IDS):
        return
    found = {}
    for suffix in (LABEL_IDS, INSTANCE_IDS):
        found[suffix] = _read(file.removesuffix(TRAIN_IDS) + suffix, train_ids.shape, report)
    label_ids, instance_ids = found.values()
    if label_ids is None or instance_ids is None:
        return
    to_train = {label: entry.trainId % 256 for label, entry in id2label.items() if label >= 0}
    expected = Segments(label_ids).replaced(to_train, 255)
    add_difference(file, train_ids, "the labelIds beside it say", expected, report)
    instances = Segments(instance_ids)
    numbers = [int(value) for value in instances.values]
    label_of = {number: number if number < 1000 else number // 1000 for number in numbers}
    add_difference(
        file.removesuffix(TRAIN_IDS) + INSTANCE_IDS,
        instances.replaced(label_of, -1),
        "the labelIds beside it say",
        label_ids,
        report,
    )
    if panoptic is None:
        return
    evaluated = {
        number: number
        for number, label in label_of.items()
        if label in id2label and not id2label[label].ignoreInEval
    }
    name = str(record["pan_seg_file_name"])
    add_difference(name, panoptic, "the instanceIds say", instances.replaced(evaluated, 0), report)


def _read(file: str, shape: tuple[int, ...], report: ImageReport) -> np.ndarray | None:
    try:
        label = np.asarray(open_whole(file))
    except Exception as error:
        report.add("agreement", f"{file}: {why_not(error)}")
        return None
    if label.shape != shape:
        report.add("agreement", f"{file}: its shape is {label.shape}, that of others {shape}")
        return None
    return label.astype(np.int64)
