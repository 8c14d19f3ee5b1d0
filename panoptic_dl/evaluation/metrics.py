"""The one table of metrics: which evaluators measure a dataset, which of their numbers are shown.

An evaluator returns results by task, such as `{"panoptic_seg": {"PQ": 62.9, "PQ-road": 97.1}}`. All
of them go to results.json, and those of single classes, `PQ-road`, to the tables by class.
`METRICS` names the few that printed tables, metrics.json, the loggers and the reports show.

How to add one: docs/explanation/architecture.md.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_dl.core.errors import EvaluationError

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Metric:
    """A number that tables and loggers show."""

    name: str  # of its column
    results: tuple[tuple[str, str], ...]  # task and key in results; the first that exists counts
    published: bool = False  # a column of published tables; loggers show its best and last value
    unit: str = "%"  # "%" stands for a number in 0..100, which is checked; anything else is not
    higher_is_better: bool = True  # how `model_best` and the loggers' best value are chosen


METRICS = (
    Metric("PQ", (("panoptic_seg", "PQ"),), published=True),
    Metric("SQ", (("panoptic_seg", "SQ"),), published=True),
    Metric("RQ", (("panoptic_seg", "RQ"),), published=True),
    Metric("mIoU", (("sem_seg", "mIoU"), ("sem_seg", "IoU")), published=True),  # IoU: Cityscapes
    Metric("AP", (("segm", "AP"),), published=True),  # masks, of a dataset without box_AP
    Metric("box_AP", (("bbox", "AP"),), published=True),
    Metric("mask_AP", (("segm", "AP"),), published=True),
    *(
        Metric(name, (("panoptic_seg", name),))
        for name in ("PQ_th", "SQ_th", "RQ_th", "PQ_st", "SQ_st", "RQ_st")
    ),
)
"""In the order of the columns; those of things end in `_th`, those of stuff in `_st`."""

METRIC_NAMES = tuple(metric.name for metric in METRICS)
PUBLISHED = tuple(metric.name for metric in METRICS if metric.published)

CLASS_CHARTS = (("panoptic_seg", "PQ", ("SQ", "RQ")), ("sem_seg", "IoU", ()))
"""What is drawn class by class: the task, the metric as a bar, others as marks."""


@dataclass(frozen=True)
class Evaluator:
    """A class that measures, `target` below `panoptic_dl.evaluation`.

    `runs_on` are `DATASET.TASK`; DATASET is a name that a lazy file of a dataset passes to
    `evaluator_configs`, TASK is panoptic or semantic.
    """

    name: str  # its key in the config, `dataset.evaluators.streaming.TASK.NAME`
    target: str
    runs_on: tuple[str, ...]
    official: str | None = None  # returns the same numbers, by the code of the dataset's authors


EVALUATORS = (
    Evaluator(
        "panoptic_seg",
        "panoptic.StreamingPanopticEvaluator",
        ("cityscapes.panoptic", "coco.panoptic", "custom.panoptic"),
        official="official.OfficialPanopticEvaluator",
    ),
    Evaluator(
        "sem_seg",
        "cityscapes_semantic.StreamingCityscapesSemanticEvaluator",
        ("cityscapes.panoptic", "cityscapes.semantic"),
        official="official.OfficialCityscapesSemanticEvaluator",
    ),
    Evaluator(
        "sem_seg",
        "semantic.StreamingSemanticEvaluator",
        ("coco.semantic", "custom.panoptic", "custom.semantic"),
        official="official.OfficialSemanticEvaluator",
    ),
    Evaluator(
        "instances",
        "cityscapes_instances.StreamingCityscapesInstanceEvaluator",
        ("cityscapes.panoptic",),
        official="official.OfficialCityscapesInstanceEvaluator",
    ),
    Evaluator(
        "instances",
        "coco_instances.StreamingCOCOInstanceEvaluator",
        ("coco.panoptic", "custom.panoptic"),
        official="official.OfficialCOCOInstanceEvaluator",
    ),
)


def evaluator_configs(dataset: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `dataset.evaluators` of a lazy file: by streaming or official, task and name."""
    configs: dict[str, dict[str, dict[str, Any]]] = {"streaming": {}, "official": {}}
    for task in ("panoptic", "semantic"):
        streaming, official = (configs[kind].setdefault(task, {}) for kind in configs)
        for entry in EVALUATORS:
            if f"{dataset}.{task}" not in entry.runs_on:
                continue
            # They read ground truth when they are made: only where there is some, and official
            # ones, which read all of it, only where they are asked for.
            node = {"dataset": f"${{dataset.test.{task}}}", "_partial_": True}
            streaming[entry.name] = {"_target_": f"panoptic_dl.evaluation.{entry.target}", **node}
            if entry.official:
                target = f"panoptic_dl.evaluation.{entry.official}"
                official[entry.name] = {"_target_": target, **node}
    return configs


def headline(results: Results) -> dict[str, float]:
    """Pick the metrics of `METRICS` from the results of all evaluators.

    Args:
        results: what Detectron2's evaluators return, `{"panoptic_seg": {"PQ": ...}, ...}`.

    Returns:
        What there is of them, in the order of the table. One that is undefined, because no image
        has such a class, is NaN: "n/a" in print, null in JSON, never a zero or a gap.

    Raises:
        EvaluationError: a percentage lies outside 0..100.
    """
    found: dict[str, float] = {}
    for metric in METRICS:
        values = [results.get(task, {}).get(key) for task, key in metric.results]
        value = next((value for value in values if value is not None), None)
        if value is not None:
            number = float(value)
            found[metric.name] = _checked(number, metric.name) if metric.unit == "%" else number
    # The same number has two names, as papers have it.
    found.pop("AP" if "box_AP" in found else "mask_AP", None)
    return found


def headline_names(tasks: Iterable[str]) -> list[str]:
    """The metrics that `headline` finds in the results of evaluators of these tasks."""
    keys = [of_task for metric in METRICS for of_task in metric.results]
    return list(headline({t: {key: math.nan for task, key in keys if task == t} for t in tasks}))


def is_better(name: str, value: float, best: float) -> bool:
    """Whether a metric's value is better than `best`; its name may have a prefix, as `ema/`."""
    name = name.rpartition("/")[2]
    lower_is_better = any(m.name == name and not m.higher_is_better for m in METRICS)
    return value < best if lower_is_better else value > best


def percentages(shares: Mapping[str, float]) -> dict[str, float]:
    """Turn shares in 0..1, or NaN, into percentages; limited to 0..100."""
    return {name: _checked(100 * value, name) for name, value in shares.items()}


def _checked(value: float, name: str) -> float:
    """Return a percentage, limited to 0..100, or NaN."""
    if math.isnan(value):
        return value
    if not -1e-6 <= value <= 100 + 1e-6:
        raise EvaluationError(
            f"{name} = {value:.3f} is no percentage: the ground truth contradicts itself. Areas in "
            "the JSON file that do not count the pixels of the PNG files do this: prepare it again"
        )
    return min(max(value, 0.0), 100.0)


def nan_mean(values: np.ndarray) -> float:
    """The mean of the numbers that are not NaN; NaN without any."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
