"""Run a model over a dataset, measure it, draw, print and save the figures."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from panoptic_dl.evaluation.agreement import pair_up, require_agreement
from panoptic_dl.evaluation.beside import Beside
from panoptic_dl.evaluation.figures import as_json, headline
from panoptic_dl.evaluation.stream import StreamingEvaluator
from panoptic_dl.models.averaged import Averaged
from panoptic_dl.prediction_files.saving import saving
from panoptic_dl.report.results import (
    class_tables,
    comparison_table,
    headline_table,
    results_csv,
    results_markdown,
)

from .evaluation_pictures import EvaluationPictures
from .evaluation_settings import EvaluationSettings
from .predict import Batch, Model, predict

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, Any]]


class Evaluation:
    """The evaluation of one dataset, ready to be called with a model as often as wanted."""

    def __init__(
        self,
        *,
        dataset: str,
        loader: Iterable[Batch],
        evaluators: Mapping[str, DatasetEvaluator],
        settings: dict[str, Any],
        official: Mapping[str, Callable[[], DatasetEvaluator]] | None = None,
        published: dict[str, float] | None = None,
        published_note: str | None = None,
    ) -> None:
        """
        Args:
            dataset: its name in Detectron2's catalogs.
            loader: one image at a time, in Detectron2's input format.
            evaluators: Detectron2 evaluators, by the entry of a model's output that each measures;
                their results are merged. Streaming ones work beside the network.
            settings: fields of `EvaluationSettings`.
            official: make the official evaluators of the same figures, by the same entries, where
                settings want them.
            published: figures to stand beneath the run's own, in percent.
            published_note: what to know when the two are compared.

        Raises ValueError for settings that cannot be.
        """
        self.dataset = dataset
        self.loader = loader
        self.evaluators = dict(evaluators)
        self.settings = EvaluationSettings(**settings)
        self.official = dict(official or {})
        saving(dataset, self.settings.kinds, Path())  # refuses what it cannot save now, not later
        self.published = published
        self.published_note = published_note

    def __call__(
        self,
        model: Model,
        folder: Path,
        *,
        batches: Iterable[Batch] | None = None,
        entries: Collection[str] | None = None,
    ) -> dict[str, Any]:
        """Evaluate `model`; called by every process of the run.

        Writes `results.json`, `results.csv`, `results.md` and pictures into `folder`.

        Args:
            model: from a batch to Detectron2's outputs.
            folder: of the run.
            batches: instead of those of the loader.
            entries: of the model's output that are measured; by default all that can be.

        Returns:
            On the main process: `metrics` (the published columns, in percent; NaN where a metric
            is undefined), `results` (all that the evaluators said), `num_images`; {} elsewhere.

        Raises:
            EvaluationError: what the evaluators refuse, or official figures that differ from ours.
        """
        settings = self.settings
        if not settings.looks_once and isinstance(model, nn.Module):
            model = Averaged(cast(Any, model), scales=settings.scales, flip=settings.flip)
        entries = self.evaluators if entries is None else entries
        measuring = [each for entry, each in self.evaluators.items() if entry in entries]
        streams = [each for each in measuring if isinstance(each, StreamingEvaluator)]
        others = [each for each in measuring if not isinstance(each, StreamingEvaluator)]
        official = []
        if settings.official:
            official = [make() for entry, make in self.official.items() if entry in entries]
        pictures = EvaluationPictures(self.dataset, folder, settings)
        writers = saving(self.dataset, settings.kinds, folder / "predictions")
        beside = Beside(
            [*streams, *writers], num_threads=settings.num_threads, offer=pictures.offer
        )
        everyone = [beside, *others, *official]
        for evaluator in everyone:
            evaluator.reset()
        batches = self.loader if batches is None else batches
        try:
            predict(model, batches, everyone)
            results = _merged([beside, *others])
        finally:
            beside.close()
        summary: dict[str, Any] = {}
        if comm.is_main_process():  # first of all: nothing that follows may lose the figures
            summary = self._summary(results)
            self._print(summary)
            self._save(summary, folder)
        drawn = pictures.draw(results, streams)
        theirs = _merged(official)
        if not comm.is_main_process():
            return {}
        if drawn:
            logger.info("Pictures:\n%s", "\n".join(f"  {file}" for file in drawn))
        if settings.kinds:
            logger.info("Predictions for servers: %s", folder / "predictions")
        if settings.official:
            self._compare(results, theirs)
        return summary

    def _summary(self, results: Results) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "num_images": len(self.loader.dataset),  # type: ignore[attr-defined]
            "metrics": headline(results),
            "published": self.published,
            "published_note": self.published_note,
            "results": results,
        }

    def _print(self, summary: dict[str, Any]) -> None:
        logger.info(
            "Results on %s (%d images)\n%s",
            summary["dataset"],
            summary["num_images"],
            headline_table(summary["metrics"], self.published),
        )
        if self.published and self.published_note:
            logger.info("Note: %s", self.published_note)
        if self.settings.per_class:
            for table in class_tables(summary["results"]):
                logger.info("%s\n%s", table.title, table.text())

    def _save(self, summary: dict[str, Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(summary), indent=2, allow_nan=False) + "\n"
        (folder / "results.json").write_text(text)
        (folder / "results.csv").write_text(results_csv(summary))
        (folder / "results.md").write_text(results_markdown(summary))
        logger.info("Saved %s, .csv and .md", folder / "results.json")

    def _compare(self, own: Results, theirs: Results) -> None:
        pairs = pair_up(own, theirs)
        rows = [(f"{p.task} {p.name}", p.own, p.official, p.difference) for p in pairs]
        logger.info("Own and official figures\n%s", comparison_table(rows))
        require_agreement(pairs)
        logger.info("All %d figures agree with the official evaluators'", len(pairs))


def _merged(evaluators: Iterable[DatasetEvaluator]) -> Results:
    """The results of all evaluators; each is asked in every process."""
    results: Results = {}
    for evaluator in evaluators:
        results |= evaluator.evaluate() or {}
    return results
