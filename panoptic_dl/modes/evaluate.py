"""mode=eval: the published metrics of a trained model, or of saved predictions.

Run a model over a dataset, measure it, draw, print and save the figures.

Hand every image of a split to a model, and what it says to evaluators.
"""

import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, inference_context
from detectron2.utils import comm
from torch import nn

from panoptic_dl.core.classes import Classes, require_classes
from panoptic_dl.core.parallel import Progress
from panoptic_dl.core.run_folder import RESULTS, as_json
from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.evaluation.evaluator import StreamingEvaluator, ThreadedEvaluator
from panoptic_dl.evaluation.metrics import METRIC_NAMES, headline
from panoptic_dl.evaluation.official import pair_up, require_agreement
from panoptic_dl.launch.session import exit_status
from panoptic_dl.loggers.base import Details, Logger, Loggers, Run, ending, modules
from panoptic_dl.models.test_time_augmentation import TestTimeAugmentation
from panoptic_dl.modes.error_pictures import EvaluationPictures
from panoptic_dl.predictions.dataset import OUTPUT_KEYS
from panoptic_dl.predictions.folder import PredictionFolder, clear_other_kinds, prediction_writers
from panoptic_dl.report.results import (
    class_tables,
    comparison_table,
    headline_table,
    notes,
    results_csv,
    results_markdown,
)
from panoptic_dl.train.precision import float32
from panoptic_dl.weights.load import load_model

Batch = list[dict[str, Any]]
Model = Callable[[Batch], Batch]


def predict(model: Model, batches: Iterable[Batch], evaluators: Iterable[DatasetEvaluator]) -> None:
    """Process all `batches` of this process, in the model's evaluation mode.

    Args:
        model: a module, which gets back the mode it was in; or a function of a batch.
        batches: have a length, of images.
        evaluators: each gets every batch and its outputs.
    """
    evaluators = list(evaluators)
    size = comm.get_world_size()
    progress = Progress(
        f"evaluated by the first of {size} processes" if size > 1 else "evaluated",
        len(batches),  # type: ignore[arg-type]
        shown=comm.is_main_process(),
    )
    mode = inference_context(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    try:
        with mode, torch.no_grad():
            for inputs in batches:
                outputs = model(inputs)
                for evaluator in evaluators:
                    evaluator.process(inputs, outputs)
                progress.add(len(inputs))
    finally:
        progress.close()


class RecordsOfProcess:
    """The records of a dataset that fall to this process, one a batch, without their images."""

    def __init__(self, dataset: str) -> None:
        self.records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
        self.positions = list(InferenceSampler(len(self.records)))

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[Batch]:
        for position in self.positions:
            yield [self.records[position]]


class FirstImages:
    """The first batches of each process's share of a split; every process makes one at once.

    Attributes:
        total: images of all processes.
        records: of these images, in Detectron2's format.
        description: "4 of 500 images".
    """

    def __init__(self, dataset: str, loader: Iterable[Batch], limit: int) -> None:
        """
        Args:
            dataset: its name in Detectron2's catalogs.
            loader: of the whole split, an image a batch, in the order of an `InferenceSampler`.
            limit: images of all processes; at least one for each.
        """
        self._loader = loader
        records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
        share = list(InferenceSampler(len(records)))[: -(-limit // comm.get_world_size())]
        self._number = len(share)
        positions = sorted(itertools.chain(*comm.all_gather(share)))
        self.total = len(positions)
        self.records = [records[position] for position in positions]
        self.description = f"{self.total} of {len(records)} images"

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self._loader, self._number)


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
        published_row: str | None = None,
        row: str | None = None,
    ) -> None:
        """
        Args:
            dataset: its name in Detectron2's catalogs.
            loader: one image at a time, in Detectron2's input format.
            evaluators: Detectron2 evaluators by name; their results are merged. The name of those
                that are not ours is the entry of a model's output that they measure. Streaming ones
                work in threads while the network runs.
            settings: fields of `EvaluationSettings`.
            official: make the official evaluators of the same figures, by the same names, where
                settings want them.
            published: figures to stand beneath the run's own, in percent.
            published_note: what to know when the two are compared.
            published_row: the combination of parts that published figures belong to; None: any.
            row: the combination that is evaluated.

        Raises ValueError for settings that cannot be.
        """
        self.dataset = dataset
        self.loader = loader
        self.evaluators = dict(evaluators)
        self.settings = EvaluationSettings(**settings)
        self.official = dict(official or {})
        # Refuse what cannot be saved now, not after the evaluation.
        prediction_writers(dataset, self.settings.kinds, Path())
        unknown = sorted(set(published or {}) - set(METRIC_NAMES))
        if unknown or not all(_is_number(value) for value in (published or {}).values()):
            raise ValueError(
                f"published={published} must hold numbers by the names {', '.join(METRIC_NAMES)}"
            )
        self.published = published
        self.published_note = published_note
        if published and published_row not in (None, row):
            logger.warning(
                "Published figures are those of %s, and not shown for %s", published_row, row
            )
            self.published = None

    def __call__(
        self,
        model: Model,
        folder: Path,
        *,
        batches: Iterable[Batch] | None = None,
        entries: Collection[str] | None = None,
        source: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> dict[str, Any]:
        """Evaluate `model`; called by every process of the run.

        Writes `results.json`, `results.csv`, `results.md` and pictures into `folder`.

        Args:
            model: from a batch to Detectron2's outputs.
            folder: of the run.
            batches: instead of those of the loader.
            entries: of the model's output that are measured; by default all that can be.
            source: what is measured, such as a file of weights, for the record.
            limit: only so many images, over all processes, one for each at least, to see that
                everything works; the files written are marked as no result. Official evaluators,
                which need the whole split, are left out.

        Returns:
            On the main process: `metrics` (the published columns, in percent; NaN where a metric
            is undefined), `results` (all that the evaluators said), `num_images`, `details` (for
            loggers); {} elsewhere.

        Raises:
            EvaluationError: what the evaluators refuse, or official figures that differ from ours.
        """
        settings = self.settings
        if settings.test_time_augmentation and isinstance(model, nn.Module):
            model = TestTimeAugmentation(
                cast(Any, model), scales=settings.scales, flip=settings.flip
            )
        entries = self.outputs if entries is None else entries
        names = [name for name, each in self.evaluators.items() if _needs(name, each) in entries]
        measuring = [self.evaluators[name] for name in names]
        streams = [each for each in measuring if isinstance(each, StreamingEvaluator)]
        others = [each for each in measuring if not isinstance(each, StreamingEvaluator)]
        few = None if limit is None else FirstImages(self.dataset, self.loader, limit)
        if few is not None and (others or settings.official):
            logger.warning("Evaluators that need the whole split are left out of this trial")
            others = []
        official = []
        if settings.official and few is None:
            official = [self.official[name]() for name in names if name in self.official]
        pictures = EvaluationPictures(self.dataset, folder, settings)
        writers = prediction_writers(
            self.dataset, settings.kinds, folder / "predictions", few.records if few else None
        )
        if writers and comm.is_main_process():
            clear_other_kinds(self.dataset, settings.kinds, folder / "predictions")
        beside = ThreadedEvaluator(
            [*streams, *writers], num_threads=settings.num_threads, on_image=pictures.offer
        )
        everyone = [beside, *others, *official]
        for evaluator in everyone:
            evaluator.reset()
        if few is not None:
            batches = few
            for stream in streams:
                stream.limit(few.total)
        batches = self.loader if batches is None else batches
        try:
            with float32(tf32=False):  # whatever a model is trained in, its figures are one thing
                predict(model, batches, everyone)
            results = _merged([beside, *others])
        finally:
            beside.close()
        summary: dict[str, Any] = {}
        unsaved: OSError | None = None
        if comm.is_main_process():  # first of all: nothing that follows may lose the figures
            summary = self._summary(results, source or {}, few)
            self._print(summary)
            try:
                self._save(summary, folder)
            except OSError as error:  # raised when the processes have nothing more to tell
                unsaved = error
        drawn = pictures.draw(results, streams)
        if official:
            logger.info("Running the official evaluators ...")
        theirs = _merged(official)
        if not comm.is_main_process():
            return {}
        if drawn:
            logger.info("Pictures:\n%s", "\n".join(f"  {file}" for file in drawn))
        if settings.kinds:
            logger.info("Predictions for servers: %s", folder / "predictions")
        if official:
            self._compare(results, theirs)
        if unsaved is not None:
            raise unsaved
        return {**summary, "details": pictures.details(results, streams, drawn)}

    @property
    def outputs(self) -> set[str]:
        """The entries of a model's output that are measured."""
        return {_needs(name, each) for name, each in self.evaluators.items()}

    def _summary(
        self, results: Results, source: Mapping[str, Any], few: FirstImages | None
    ) -> dict[str, Any]:
        no_result = None if few is None else f"fast_dev_run: {few.description}, no result"
        return {
            **({} if no_result is None else {"no_result": no_result}),
            "dataset": self.dataset,
            "measured": {
                **source,
                "scales": list(self.settings.scales),
                "flip": self.settings.flip,
            },
            "num_images": len(self.loader.dataset) if few is None else few.total,  # type: ignore[attr-defined]
            "metrics": headline(results),
            "published": self.published if few is None else None,
            "published_note": self.published_note,
            "results": results,
        }

    def _print(self, summary: dict[str, Any]) -> None:
        logger.info(
            "%s on %s (%d images)\n%s",
            summary.get("no_result", "Results"),
            summary["dataset"],
            summary["num_images"],
            headline_table(summary["metrics"], self.published),
        )
        for note in notes(summary):
            logger.info("Note: %s", note)
        if self.settings.per_class:
            for table in class_tables(summary["results"]):
                logger.info("%s\n%s", table.title, table.text())

    def _save(self, summary: dict[str, Any], folder: Path) -> None:
        texts = {
            RESULTS: json.dumps(as_json(summary), indent=2, allow_nan=False) + "\n",
            "results.csv": results_csv(summary),
            "results.md": results_markdown(summary),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            try:
                (folder / name).write_text(text, encoding="utf-8")  # names of classes
            except OSError as error:  # a full disk does not name the file
                raise OSError(f"cannot write {folder / name}: {error.strerror}") from error
        logger.info("Saved %s, .csv and .md", folder / RESULTS)

    def _compare(self, own: Results, theirs: Results) -> None:
        pairs = pair_up(own, theirs)
        shown = [p for p in pairs if self.settings.per_class or "-" not in p.name or not p.agrees]
        rows = [(f"{p.task} {p.name}", p.own, p.official, p.difference) for p in shown]
        logger.info("Own and official figures\n%s", comparison_table(rows))
        require_agreement(pairs)
        logger.info("All %d figures agree with the official evaluators'", len(pairs))


def _needs(name: str, evaluator: DatasetEvaluator) -> str:
    """The entry of a model's output that an evaluator measures; of foreign ones their name."""
    return getattr(evaluator, "needs", name)


def _merged(evaluators: Iterable[DatasetEvaluator]) -> Results:
    """The results of all evaluators; each is asked in every process."""
    results: Results = {}
    for evaluator in evaluators:
        results |= evaluator.evaluate() or {}
    return results


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


logger = logging.getLogger(__name__)


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
        with ending(listening, exit_status):
            listening.start(Run(Path(run_dir), "eval"))
            return _told(listening, _score(evaluation, predictions, run_dir))
    if weights is None:
        raise ValueError(
            "mode=eval needs weights=FILE (.safetensors, .pth or .pkl) or a run folder, such as "
            "weights=outputs/NAME/TIME/model_final.pth, or predictions=FOLDER to score files"
        )
    load_model(model, weights, image_format)
    if classes is not None:
        require_classes(classes, weights)
    with ending(listening, exit_status):
        listening.start(Run(Path(run_dir), "eval", modules=modules(model)))
        results = evaluation(model.to(device), Path(run_dir), source={"weights": weights})
        return _told(listening, results)


def _told(loggers: Loggers, results: dict[str, Any]) -> dict[str, Any]:
    if results:
        loggers.evaluation(0, results["metrics"], results.get("details", Details()))
    return results


def _score(evaluation: Evaluation, predictions: str, run_dir: str) -> dict[str, Any]:
    if evaluation.settings.test_time_augmentation:
        raise ValueError(
            "evaluation.scales and evaluation.flip need a network to look at images: leave them "
            "out with predictions=FOLDER"
        )
    measured = {kind for kind, entry in OUTPUT_KEYS.items() if entry in evaluation.outputs}
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
        entries={OUTPUT_KEYS[kind] for kind in folder.kinds},
        source={"predictions": predictions},
    )
