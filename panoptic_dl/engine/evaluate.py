"""mode=eval: the published metrics of a trained model, or of saved predictions."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

from panoptic_dl.classes import Classes
from panoptic_dl.loggers.interface import Details, Logger
from panoptic_dl.loggers.network import modules
from panoptic_dl.loggers.several import Loggers, ending
from panoptic_dl.prediction_files.folder import PredictionFolder
from panoptic_dl.weights.load import load_model

from .class_record import require_classes
from .evaluation import Evaluation
from .loggers import how_it_ended, start_loggers
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
    image_format: str = "RGB",
    classes: Classes | None = None,
    loggers: dict[str, Logger] | None = None,
) -> dict[str, Any]:
    """Load `weights` completely, evaluate, print the table and save the results in `run_dir`.

    Args:
        predictions: folder of files in the formats of the servers, to be scored in the place of a
            network; what is not there is not scored.
        image_format: channel order of the loader's images, RGB or BGR.
        loggers: are told the figures and more, by their names; see `Loggers`.
        classes: of the dataset; where the weights are of a run, they must be its classes.

    Raises:
        ValueError: neither weights nor predictions are named, or both; weights do not fit the
            model or the classes.
        EvaluationError: a prediction is missing or damaged.
    """
    listening = Loggers(loggers)
    if predictions is not None:
        if weights is not None:
            raise ValueError("mode=eval takes weights=FILE or predictions=FOLDER, not both")
        with ending(listening, how_it_ended):
            start_loggers(listening, Path(run_dir), "eval")
            return _told(listening, _score(evaluation, predictions, run_dir))
    if weights is None:
        raise ValueError(
            "mode=eval needs weights=FILE (.safetensors, .pth or .pkl) or a run folder, such as "
            "weights=outputs/NAME/TIME/model_final.pth, or predictions=FOLDER to score files"
        )
    load_model(model, weights, image_format)
    if classes is not None:
        require_classes(classes, weights)
    with ending(listening, how_it_ended):
        start_loggers(listening, Path(run_dir), "eval", modules=modules(model))
        results = evaluation(model.to(device), Path(run_dir), source={"weights": weights})
        return _told(listening, results)


def _told(loggers: Loggers, results: dict[str, Any]) -> dict[str, Any]:
    if results:
        loggers.evaluation(0, results["metrics"], results.get("details", Details()))
    return results


def _score(evaluation: Evaluation, predictions: str, run_dir: str) -> dict[str, Any]:
    if not evaluation.settings.looks_once:
        raise ValueError(
            "evaluation.scales and evaluation.flip need a network to look at images: leave them "
            "out with predictions=FOLDER"
        )
    measured = {kind for kind, entry in ENTRIES.items() if entry in evaluation.evaluators}
    folder = PredictionFolder(evaluation.dataset, predictions, measured)
    target, source = Path(run_dir, "predictions").resolve(), Path(predictions).resolve()
    if evaluation.settings.kinds and (target == source or source in target.parents):
        raise ValueError(
            f"evaluation.save would replace the predictions in {predictions} that are to be "
            "scored: choose another run_dir"
        )
    logger.info("Scoring %s of %s", ", ".join(folder.kinds), predictions)
    missing = sorted(measured - set(folder.kinds))
    if missing:
        logger.warning("Not scored, for there are no such files: %s", ", ".join(missing))
    if evaluation.settings.official:
        logger.info("The official evaluators are given the predictions as they were read")
    return evaluation(
        lambda batch: [folder(item) for item in batch],
        Path(run_dir),
        batches=RecordsOfProcess(evaluation.dataset),
        entries={ENTRIES[kind] for kind in folder.kinds},
        source={"predictions": predictions},
    )
