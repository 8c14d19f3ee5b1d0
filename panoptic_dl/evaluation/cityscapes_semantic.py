"""Cityscapes' pixel-level metrics (Cordts et al., CVPR 2016, section 4.1), and its labels on disk.

As cityscapesscripts' evalPixelLevelSemanticLabeling computes them: a class that is predicted but
absent from the ground truth counts as 0 (Detectron2, for other datasets, leaves it out). Pixels of
ignored labels do not count as errors. iIoU weights the pixels of each true instance with the mean
size of its class over its own size, so that small ones count as much as large ones; false positives
belong to no instance and keep weight 1.

A pixel of an instanceIds file below 1000 is a label id: stuff, or a group of things that cannot be
told apart; others are label id * 1000 + number.

Shapes: K = 19 classes, H W pixels, L = 34 label ids.
"""

from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as script
from cityscapesscripts.helpers.labels import category2labels, labels
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.core.distributed import EXACT_PARTS, from_exact, to_exact
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.headers import Labels
from panoptic_dl.core.images import read_label_ids
from panoptic_dl.evaluation.evaluator import Coverage, errors_name, require_size
from panoptic_dl.evaluation.metrics import percentages
from panoptic_dl.evaluation.semantic import (
    SemanticPrediction,
    StreamingSemanticEvaluator,
    count_confusions,
    semantic_metrics,
)

LABELS = {label.id: label for label in labels if label.id >= 0}
NUM_LABELS = max(LABELS) + 1
EVALUATED = sorted(
    (label for label in LABELS.values() if not label.ignoreInEval), key=lambda label: label.trainId
)
"""Labels by train id, 0..18: the columns of predictions."""
INSTANCE_LABELS = [label for label in EVALUATED if label.hasInstances]
IGNORED = np.array([LABELS[i].ignoreInEval for i in range(NUM_LABELS)])
"""(34,) bool by label id."""
MEAN_SIZES: dict[str, float] = script.avgClassSize  # pixels of an instance, by class
CATEGORIES = {  # name -> train ids, of categories with a class that is evaluated
    name: [label.trainId for label in members if not label.ignoreInEval]
    for name, members in category2labels.items()
    if any(not label.ignoreInEval for label in members)
}
INSTANCE_CATEGORIES = [  # of things alone: human and vehicle
    name
    for name in CATEGORIES
    if all(label.hasInstances for label in category2labels[name] if label.id >= 0)
]
INSTANCE_ROWS = [label.name for label in INSTANCE_LABELS] + INSTANCE_CATEGORIES

# Pixels by label and class (L, K + 1), and weighted pixels of instances.
SemanticMatch = tuple[np.ndarray, np.ndarray]


def find_labels(folder: str, suffix: str) -> dict[str, Path]:
    """Files `<city>/<image id><suffix>` below a split's folder, by image id; or EvaluationError."""
    paths = sorted(Path(folder).glob(f"[!.]*/[!.]*{suffix}"))
    files = {image_id(file.name): file for file in paths}
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


class StreamingCityscapesSemanticEvaluator(StreamingSemanticEvaluator):
    """`sem_seg.IoU` (the mIoU of papers), iIoU, and both over categories (`_sup`), in percent.

    Outputs need "sem_seg", (K, H, W) scores of train ids at the size of the image file, or (H, W)
    train ids. Labels are read from `gt_dir` of the metadata; all of its images must be evaluated.
    """

    def __init__(self, dataset: str) -> None:
        """`dataset`: in Detectron2's catalogs; its metadata has `gt_dir`."""
        folder = MetadataCatalog.get(dataset).gt_dir
        self._files = find_labels(folder, "_gtFine_labelIds.png")
        self._coverage = Coverage(self._files, folder)
        self.names = [label.name for label in EVALUATED]
        self.reset()

    def reset(self) -> None:
        self._coverage.reset()
        # The last column: pixels that have no class.
        self._counts = np.zeros((NUM_LABELS, len(EVALUATED) + 1), dtype=np.int64)
        self.confusions: np.ndarray | None = None
        # Weighted pixels of the instances of a class or category, found and missed, in exact parts.
        self._instances = np.zeros((len(INSTANCE_ROWS), 2, EXACT_PARTS), dtype=np.int64)

    def image_of(self, item: dict[str, Any]) -> str:
        return image_id(item["file_name"])

    def truth_files(self, record: dict[str, Any]) -> Labels:
        file = self._files.get(self.image_of(record))
        return [] if file is None else [(str(file), "label"), (str(_instance_ids(file)), "label")]

    def match(self, prediction: SemanticPrediction) -> SemanticMatch:
        image, classes = prediction
        file = self._files[image]
        truth = read_label_ids(file)
        numbers = read_label_ids(_instance_ids(file))
        with errors_name(file):
            confusions = count_confusions(truth, classes, NUM_LABELS, len(EVALUATED) + 1)
            return confusions, _weigh_instances(numbers, classes)

    def update(self, match: SemanticMatch) -> None:
        confusions, instances = match
        self._counts += confusions
        self._instances += instances

    def quality(self, match: SemanticMatch) -> float:
        """Mean IoU of one image over classes that are true or predicted, 0..1; NaN without any."""
        return _cityscapes_metrics(match[0], np.zeros((len(INSTANCE_ROWS), 2)))["IoU"]

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Results of all processes, "sem_seg": IoU, iIoU, IoU_sup, iIoU_sup, and num_images.

        Also those of each class and category, IoU-<class> and IoU_sup-<category>; and fwIoU, mACC
        and pACC of `semantic_metrics`, which the script does not print.
        """
        (counts, instances), num_images = self._sum(self._counts, self._instances)
        if not comm.is_main_process():
            return None
        self.confusions = counts[[label.id for label in EVALUATED]]
        weighted = from_exact(instances)
        results = _cityscapes_metrics(counts, weighted)
        accuracies = semantic_metrics(self.confusions, self.names)
        results |= {name: accuracies[name] for name in ("fwIoU", "mACC", "pACC")}
        return {"sem_seg": percentages(results) | {"num_images": num_images}}


def _instance_ids(label_ids: Path) -> Path:
    return label_ids.with_name(label_ids.name.replace("_labelIds", "_instanceIds"))


def _weigh_instances(numbers: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Weighted pixels, found and missed, of the instances (H, W): (INSTANCE_ROWS, 2, parts)."""
    require_size(predicted.shape, numbers.shape, other="the instanceIds file")
    total = np.zeros((len(INSTANCE_ROWS), 2, EXACT_PARTS), dtype=np.int64)
    pixels = np.flatnonzero(numbers > 1000)  # the script's condition
    owners = numbers.reshape(-1)[pixels]
    ids = np.flatnonzero(np.bincount(owners)) if len(owners) else owners
    table = np.zeros(int(ids[-1]) + 1 if len(ids) else 1, dtype=np.int64)
    table[ids] = np.arange(len(ids))
    width = len(EVALUATED) + 1
    counts = np.bincount(
        table[owners] * width + predicted.reshape(-1)[pixels], minlength=len(ids) * width
    ).reshape(len(ids), width)
    for number, row in zip(ids.tolist(), counts, strict=True):
        label = LABELS.get(number // 1000)
        if label is None or not label.hasInstances:
            raise EvaluationError(f"instance {number} belongs to no label with instances")
        if label.ignoreInEval:
            continue
        size = int(row.sum())
        weight = MEAN_SIZES[label.name] / size
        for name, columns in (
            (label.name, [label.trainId]),
            (label.category, CATEGORIES[label.category]),
        ):
            found = int(row[columns].sum())
            values = np.array([found * weight, (size - found) * weight])
            total[INSTANCE_ROWS.index(name)] += to_exact(values)
    return total


def _cityscapes_metrics(counts: np.ndarray, weighted: np.ndarray) -> dict[str, float]:
    """Metrics in 0..1, NaN where there is nothing to divide by.

    `counts` are (L, K + 1) pixels, rows true label ids, columns predicted train ids and none;
    `weighted` (rows of INSTANCE_ROWS, 2) are weighted pixels of instances, found and missed.
    """
    categories = np.array([LABELS[i].category for i in range(NUM_LABELS)])
    results: dict[str, dict[str, float]] = {"IoU": {}, "iIoU": {}, "IoU_sup": {}, "iIoU_sup": {}}
    groups = [
        ("", label.name, [label.trainId], np.arange(NUM_LABELS) == label.id) for label in EVALUATED
    ]
    groups += [("_sup", name, columns, categories == name) for name, columns in CATEGORIES.items()]
    for suffix, name, columns, inside in groups:
        members = [EVALUATED[column].id for column in columns]
        found = int(counts[np.ix_(members, columns)].sum())
        missed = int(counts[members].sum()) - found
        wrong = int(counts[np.ix_(~IGNORED & ~inside, columns)].sum())
        results["IoU" + suffix][name] = _ratio(found, found + missed + wrong)
        if name in INSTANCE_ROWS:
            found_weight, missed_weight = weighted[INSTANCE_ROWS.index(name)].tolist()
            results["iIoU" + suffix][name] = _ratio(
                found_weight, found_weight + wrong + missed_weight
            )
    flat = {kind: _mean(values) for kind, values in results.items()}
    for kind, values in results.items():
        flat |= {f"{kind}-{name}": value for name, value in values.items()}
    return flat


def _ratio(part: float, total: float) -> float:
    return part / total if total else float("nan")


def _mean(values: dict[str, float]) -> float:
    there = [value for value in values.values() if not np.isnan(value)]
    return sum(there) / len(there) if there else float("nan")  # as the script adds them
