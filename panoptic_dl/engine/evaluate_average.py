"""Evaluate a model twice: with its weights, and with their moving average."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from panoptic_dl.report.results import comparison_of_rows

from .ema import WeightAverage

logger = logging.getLogger(__name__)

FOLDER = "ema"  # below the run's own, and the first part of the names of its figures


def evaluate_both(
    evaluation: Callable[..., dict[str, Any]],
    model: nn.Module,
    average: WeightAverage | None,
    run_dir: Path,
    *,
    source: dict[str, Any],
) -> dict[str, Any]:
    """The results of the raw weights, with those of the average beside them.

    Args:
        evaluation: called as `evaluation(model, folder, source=...)` in every process.
        average: of the model's weights; None: only the raw ones are evaluated.
        run_dir: gets the raw weights' results; those of the average go to its folder `ema`.
        source: what is measured, for the record.

    Returns:
        Results of the raw weights; their `metrics` have those of the average too, as `ema/PQ`.
        {} where `evaluation` returns that (all processes but the main one).
    """
    results = evaluation(model, run_dir, source=source)
    if average is None:
        return results
    logger.info("Now the same with the moving average of the weights (train.ema)")
    with average.applied():
        averaged = evaluation(
            model, run_dir / FOLDER, source={**source, "weights": "moving average"}
        )
    if not results:
        return results
    rows = {"weights": results["metrics"], "moving average": averaged["metrics"]}
    logger.info("Weights and their moving average\n%s", comparison_of_rows(rows))
    beside = {f"{FOLDER}/{name}": value for name, value in averaged["metrics"].items()}
    return {**results, "metrics": {**results["metrics"], **beside}, FOLDER: averaged}
