"""mode=eval: the published metrics of a trained model, or of saved predictions."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from panoptic_dl.prediction_files.folder import PredictionFolder
from panoptic_dl.weights.load import load_model

from .evaluation import Evaluation
from .predict import RecordsOfProcess

logger = logging.getLogger(__name__)

ENTRIES = {"panoptic": "panoptic_seg", "instances": "instances", "semantic": "sem_seg"}


def evaluate(
    *,
    device: str,
    model: nn.Module,
    evaluation: Evaluation,
    weights: str | None,
    predictions: str | None,
    run_dir: str,
) -> dict[str, Any]:
    """Load `weights` completely, evaluate, print the table and save the results in `run_dir`.

    Args:
        predictions: folder of files in the formats of the servers, to be scored in the place of a
            network; what is not there is not scored.

    Raises:
        ValueError: neither weights nor predictions are named, or both; weights do not fit the
            model.
        EvaluationError: a prediction is missing or damaged.
    """
    if predictions is not None:
        if weights is not None:
            raise ValueError("mode=eval takes weights=FILE or predictions=FOLDER, not both")
        return _score(evaluation, predictions, run_dir)
    if weights is None:
        raise ValueError(
            "mode=eval needs weights=FILE (.pth or .safetensors), such as "
            "weights=outputs/NAME/TIME/model_final.pth, or predictions=FOLDER to score files"
        )
    load_model(model, weights)
    return evaluation(model.to(device), Path(run_dir))


def _score(evaluation: Evaluation, predictions: str, run_dir: str) -> dict[str, Any]:
    folder = PredictionFolder(evaluation.dataset, predictions)
    found = {ENTRIES[kind] for kind in folder.kinds}
    logger.info("Scoring %s of %s", ", ".join(folder.kinds), predictions)
    missing = sorted(set(evaluation.evaluators) - found)
    if not found & set(evaluation.evaluators):
        raise ValueError(
            f"{predictions} holds {', '.join(folder.kinds)} only, which nothing of this task "
            "measures: choose the task of the predictions"
        )
    if missing:
        logger.warning("Not scored, for there are no such files: %s", ", ".join(missing))
    return evaluation(
        lambda batch: [folder(item) for item in batch],
        Path(run_dir),
        batches=RecordsOfProcess(evaluation.dataset),
        entries=found,
    )
