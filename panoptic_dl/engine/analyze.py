"""mode=analyze: which branch limits a Panoptic-DeepLab."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from panoptic_dl.evaluation.figures import as_json, headline
from panoptic_dl.evaluation.processes import sum_over_processes
from panoptic_dl.evaluation.stream import StreamingEvaluator
from panoptic_dl.models.batch import check_images
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.report.analysis import analysis_text, draw_analysis, with_gains
from panoptic_dl.weights.load import load_model

from .oracle import COMBINATIONS, UNLABELLED, predictions
from .progress import Progress

logger = logging.getLogger(__name__)


def analyze(
    *,
    device: str,
    model: nn.Module,
    dataset: str,
    loader: Iterable[list[dict[str, Any]]],
    make_evaluator: Callable[[], StreamingEvaluator[Any, Any]],
    weights: str | None,
    predictions: str | None,
    looks: Mapping[str, Any],
    run_dir: str,
    name: str,
    unlabelled: str,
    image_format: str = "RGB",
) -> dict[str, Any]:
    """Measure PQ with semantic prediction, centres and offsets replaced by the truth.

    All eight combinations are measured at once: the network sees an image once, its maps are merged
    eight times. Prints a table; saves `analysis.json` and `analysis.png` in `run_dir`.

    Args:
        device: `cuda` or `cpu`.
        model: `PanopticDeepLab`.
        dataset: its name in Detectron2's catalogs.
        loader: batches of samples of the whole split with "truth", see
            `panoptic_dl.data.truth_maps`; of several processes each has its share.
        make_evaluator: makes an evaluator of panoptic quality, one for each combination.
        weights: a file with all of the model.
        predictions, looks: refused: what `mode=eval` takes instead of a model that looks once.
        name: of the run, in the picture.
        unlabelled: "predicted" or "void", see `engine.oracle.predictions`.
        image_format: channel order of the loader's images, RGB or BGR.

    Returns:
        On the main process: `metrics` (PQ of the model, then of each combination, in percent) and
        what `analysis.json` has; {} elsewhere.

    Raises:
        ValueError: predictions or several looks are asked for; no weights are named, or they do
            not fit the model; the model has no such branches; `unlabelled` is unknown.
    """
    if not isinstance(model, PanopticDeepLab):
        raise ValueError(
            "mode=analyze replaces centres and offsets, which task=semantic has none of: choose "
            "task=panoptic, or mode=eval"
        )
    if predictions is not None:
        raise ValueError("mode=analyze needs a network, not predictions=FOLDER: give weights=FILE")
    if looks != {"scales": [1.0], "flip": False}:
        raise ValueError(
            "mode=analyze looks at each image once: leave out evaluation.scales and evaluation.flip"
        )
    if unlabelled not in UNLABELLED:
        raise ValueError(f"mode.unlabelled={unlabelled} is unknown; choose predicted or void")
    if weights is None:
        raise ValueError(
            "mode=analyze needs weights=FILE (.safetensors, .pth or .pkl) or a run folder, such as "
            "weights=outputs/NAME/TIME/model_final.pth"
        )
    load_model(model, weights, image_format)
    model.predict_semantic = model.predict_instances = False  # panoptic maps are all that is needed
    evaluators = [make_evaluator() for _ in COMBINATIONS]
    segments = measure(model.to(device), loader, evaluators, unlabelled=unlabelled)
    results = [evaluator.evaluate() for evaluator in evaluators]  # in every process
    if not comm.is_main_process():
        return {}
    rows: list[dict[str, Any]] = [
        {"truth": list(branches), "metrics": headline(result or {}), "segments": counts}
        for branches, result, counts in zip(COMBINATIONS, results, segments, strict=True)
    ]
    analysis = {
        "name": name,
        "dataset": dataset,
        "num_images": len(loader.dataset),  # type: ignore[attr-defined]
        "weights": weights,
        "unlabelled": unlabelled,
        "combinations": with_gains(rows),
    }
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(analysis), indent=2, allow_nan=False)
    (folder / "analysis.json").write_text(text + "\n")
    draw_analysis(analysis, folder / "analysis.png")
    logger.info("%s", analysis_text(analysis))
    logger.info("Saved %s and analysis.png", folder / "analysis.json")
    metrics = {
        _label(branches): row["metrics"]["PQ"]
        for branches, row in zip(COMBINATIONS, rows, strict=True)
    }
    return {"metrics": metrics, **analysis}


def measure(
    model: PanopticDeepLab,
    loader: Iterable[list[dict[str, Any]]],
    evaluators: list[StreamingEvaluator[Any, Any]],
    *,
    unlabelled: str,
) -> list[dict[str, int]]:
    """Give every evaluator its combination's prediction of every image.

    Returns:
        For each of `COMBINATIONS` the numbers of segments, over all processes: "matched", "missed"
        (true ones without a match) and "wrong" (predicted ones without).
    """
    for evaluator in evaluators:
        evaluator.reset()
    counts = np.zeros((len(COMBINATIONS), 3), dtype=np.int64)
    progress = Progress(
        len(loader),  # type: ignore[arg-type]
        what="analysed",
        shown=comm.is_main_process(),
    )
    with closing(progress), inference_context(model), torch.no_grad():
        for batch in loader:
            check_images(batch, num_channels=len(model.pixel_mean))
            images = model.preprocess(batch)
            maps = model.network(images.tensor)
            per_image = zip(*maps, images.image_sizes, batch, strict=True)
            for sem_seg, center, offset, size, sample in per_image:
                resized = model.resize_maps(sem_seg, center, offset, size, sample)
                truth = sample["truth"]
                truth = type(truth)(*(map_.to(model.device) for map_ in truth))
                outputs = predictions(model, resized, truth, unlabelled=unlabelled)
                for index, (evaluator, output) in enumerate(zip(evaluators, outputs, strict=True)):
                    found = evaluator.compare(evaluator.take(sample, output))
                    evaluator.add(found)
                    counts[index] += [
                        len(found.ious),
                        len(found.false_negatives),
                        len(found.false_positives),
                    ]
            progress.add(len(batch))
    (counts,) = sum_over_processes(counts)
    return [dict(zip(("matched", "missed", "wrong"), row, strict=True)) for row in counts.tolist()]


def _label(branches: tuple[str, ...]) -> str:
    return f"PQ with true {' + '.join(branches)}" if branches else "PQ"
