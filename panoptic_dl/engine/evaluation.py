"""Run a model over a dataset, measure it, draw a few images, print and save the figures."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.utils import comm
from tabulate import tabulate
from torch import nn

from panoptic_dl.evaluation.figures import as_json, as_text, headline
from panoptic_dl.visualize.evaluator import PictureEvaluator

logger = logging.getLogger(__name__)


class Evaluation:
    """The evaluation of one dataset, ready to be called with a model as often as wanted."""

    def __init__(
        self,
        *,
        dataset: str,
        loader: Iterable[list[dict[str, Any]]],
        evaluators: Sequence[DatasetEvaluator],
        picture_count: int = 0,
        published: dict[str, float] | None = None,
        published_note: str | None = None,
    ) -> None:
        """
        Args:
            dataset: its name in Detectron2's catalogs.
            loader: one image at a time, in Detectron2's input format.
            evaluators: Detectron2 evaluators; their results are merged.
            picture_count: images drawn as image | truth | prediction.
            published: figures to stand beneath the run's own, in percent.
            published_note: what to know when the two are compared.
        """
        self.dataset = dataset
        self.loader = loader
        self.evaluators = list(evaluators)
        self.picture_count = picture_count
        self.published = published
        self.published_note = published_note

    def __call__(self, model: nn.Module, folder: Path) -> dict[str, Any]:
        """Evaluate `model`; called by every process of the run.

        Writes `results.json` and `predictions.png` into `folder`.

        Returns:
            On the main process: `metrics` (the published columns, in percent; NaN where a metric
            is undefined), `results` (all that the evaluators said), `num_images`; {} elsewhere.
        """
        evaluators = list(self.evaluators)
        if self.picture_count and comm.is_main_process():
            evaluators.append(
                PictureEvaluator(self.dataset, self.picture_count, folder / "predictions.png")
            )
        results = inference_on_dataset(model, self.loader, DatasetEvaluators(evaluators))
        if not comm.is_main_process():
            return {}
        num_images = len(self.loader.dataset)  # type: ignore[attr-defined]
        metrics = headline(results)
        logger.info(
            "Results on %s (%d images)\n%s",
            self.dataset,
            num_images,
            results_table(metrics, self.published),
        )
        if self.published and self.published_note:
            logger.info("Note: %s", self.published_note)
        summary = {
            "dataset": self.dataset,
            "num_images": num_images,
            "metrics": metrics,
            "published": self.published,
            "published_note": self.published_note,
            "results": results,
        }
        text = json.dumps(as_json(summary), indent=2, allow_nan=False)
        target = folder / "results.json"
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n")
        logger.info("Saved %s", target)
        if self.picture_count:
            logger.info("Pictures: %s", folder / "predictions.png")
        return summary


def results_table(metrics: dict[str, float], published: dict[str, float] | None = None) -> str:
    """The figures in one row, in percent; with `published`, theirs and the difference beneath."""
    rows = [["own", *(as_text(value) for value in metrics.values())]]
    if published:
        shared = [name if name in published else None for name in metrics]
        rows.append(["published", *(as_text(published[n]) if n else "" for n in shared)])
        rows.append(
            ["difference", *(f"{metrics[n] - published[n]:+.1f}" if n else "" for n in shared)]
        )
    headings = [name.replace("_", " ") for name in metrics]
    return tabulate(rows, ["", *headings], "github", stralign="right", disable_numparse=True)
