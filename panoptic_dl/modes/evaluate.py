"""mode=eval: the published metrics of a trained model, or of saved predictions.

`evaluate` is the mode. It loads weights, or predictions from files, and calls an `Evaluation`: a
dataset with its evaluators, which training calls as well. `predict` is its loop over the images.
"""

import contextlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_context
from detectron2.utils import comm
from torch import nn
from torch.utils.data import DataLoader

from panoptic_dl.core.classes import Classes, require_classes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import local_path, write_text
from panoptic_dl.core.headers import check_records, fingerprint, require_own_ids
from panoptic_dl.core.parallel import Progress
from panoptic_dl.core.run_folder import RESULTS, as_json, is_exported
from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.data.loader import PrefetchedToGpu
from panoptic_dl.evaluation.evaluator import StreamingEvaluator, ThreadedEvaluator
from panoptic_dl.evaluation.metrics import METRIC_NAMES, headline, headline_names
from panoptic_dl.evaluation.official import pair_up, require_agreement
from panoptic_dl.launch.session import accept
from panoptic_dl.loggers.base import Details, Logger, Loggers, Run
from panoptic_dl.models.test_time_augmentation import TestTimeAugmentation
from panoptic_dl.modes.pictures import EvaluationPictures
from panoptic_dl.predictions.dataset import OUTPUT_KEYS, make_instances
from panoptic_dl.predictions.folder import PredictionFolder, clear_other_kinds, prediction_writers
from panoptic_dl.report.results import (
    class_tables,
    comparison_of_weights,
    comparison_table,
    notes,
    results_csv,
    results_markdown,
    summary_table,
)
from panoptic_dl.runtime.prediction import NetworkOutput, PreparedImage
from panoptic_dl.runtime.session import Session
from panoptic_dl.train.inference import accelerate
from panoptic_dl.train.precision import AUTO, arithmetic, plain_precision
from panoptic_dl.weights.load import load_model

Batch = list[dict[str, Any]]
Model = Callable[[Batch], Batch]
Results = dict[str, dict[str, Any]]

SECONDS_FOR_HEADERS = 60.0  # of the files of all images: more than there are, but on slow networks

logger = logging.getLogger(__name__)


def evaluate(
    *,
    device: str,
    model: nn.Module,
    evaluation: "Evaluation",
    weights: str | None,
    predictions: str | None,
    run_dir: str,
    image_format: str = "RGB",
    classes: Classes | None = None,
    loggers: dict[str, Logger] | None = None,
) -> dict[str, Any]:
    """Load `weights` completely, evaluate, print the table and save the results in `run_dir`.

    `predictions`, a folder of files in the formats of the servers, is evaluated instead of a
    network; a kind without files is left out. Weights of a run must be of the same `classes`.

    Raises ValueError: neither weights nor predictions are named, or both; weights do not fit.
    EvaluationError: a prediction is missing or damaged.
    """
    folder, listening = Path(run_dir), Loggers(loggers)
    if weights is not None and predictions is not None:
        raise ValueError("mode=eval takes weights=FILE or predictions=FOLDER, not both")
    if weights is predictions is None:
        raise ValueError(
            "mode=eval needs weights=FILE (.safetensors, .pth or .pkl) or a run folder, such as "
            "weights=outputs/NAME/TIME/model_final.pth, or predictions=FOLDER to score files"
        )
    precision, exported = evaluation.settings.precision, is_exported(weights or "")
    if (weights is None or exported) and precision != EvaluationSettings().precision:
        raise ValueError(
            f"evaluation.precision={precision} is of a network in PyTorch, not of files"
        )
    if not evaluation.has_truth:
        _require_no_figures(evaluation, predictions)
    evaluation.check_folder(folder)
    run = Run(folder, "eval")
    measure: Callable[[], dict[str, Any]]
    if weights is not None and exported:
        measure = _of_export(evaluation, weights, image_format, classes, folder)
    elif weights is not None:
        load_model(model, weights, image_format)
        if classes is not None:
            require_classes(classes, weights)
        model.to(device)
        run = Run(folder, "eval", model=model)
        plain = plain_precision("evaluation.precision", precision, torch.device(device))
        if precision == AUTO:
            model = accelerate(model.eval(), plain, torch.device(device))
        measure = partial(evaluation, model, folder, source={"weights": weights})
    else:
        measure = _of_files(evaluation, str(predictions), folder)
    accept()
    with listening:
        listening.start(run)
        results = measure()
        if results:
            listening.evaluation(0, results["metrics"], results.get("details", Details()))
        return results


def _require_no_figures(evaluation: "Evaluation", predictions: str | None) -> None:
    """Raise ValueError where figures are asked for, or nothing is, of images without truth."""
    about = f"{evaluation.dataset} has no ground truth"
    if predictions is not None:
        raise ValueError(f"{about}, which predictions={predictions} could be scored with")
    if evaluation.settings.official:
        raise ValueError(f"{about}: leave out evaluation.official=true, there are no figures")
    if not evaluation.settings.kinds:
        raise ValueError(
            f"{about}, so there are no figures: evaluation.save=panoptic (or instances, semantic) "
            "writes its predictions for the server"
        )


def _of_files(
    evaluation: "Evaluation", predictions: str, run_dir: Path
) -> Callable[[], dict[str, Any]]:
    if evaluation.settings.test_time_augmentation:
        raise ValueError(
            "evaluation.scales and evaluation.flip need a network to look at images: leave them "
            "out with predictions=FOLDER"
        )
    measured = {kind for kind, entry in OUTPUT_KEYS.items() if entry in evaluation.outputs}
    files = PredictionFolder(evaluation.dataset, predictions, measured)
    source = local_path(predictions, "predictions").resolve()
    target = (run_dir / "predictions").resolve()
    if evaluation.settings.kinds and (target == source or source in target.parents):
        raise ValueError(
            f"evaluation.save would replace the predictions in {predictions} that are to be "
            "scored: choose another run_dir"
        )
    logger.info("Scoring %s of %s", ", ".join(files.kinds), predictions)
    missing = sorted(measured - set(files.kinds))
    if missing:
        logger.warning("Not scored, for there are no such files: %s", ", ".join(missing))
    if evaluation.settings.official:
        logger.info("The official evaluators are given the predictions as they were read")
    records: list[dict[str, Any]] = DatasetCatalog.get(evaluation.dataset)
    return partial(
        evaluation,
        lambda batch: [files(item) for item in batch],
        run_dir,
        batches=[[records[position]] for position in InferenceSampler(len(records))],
        entries={OUTPUT_KEYS[kind] for kind in files.kinds},
        source={"predictions": predictions},
    )


def _of_export(
    evaluation: "Evaluation",
    weights: str,
    image_format: str,
    classes: Classes | None,
    run_dir: Path,
) -> Callable[[], dict[str, Any]]:
    if evaluation.settings.test_time_augmentation:
        raise ValueError(
            "evaluation.scales and evaluation.flip are not in an exported file: leave them out, or "
            "evaluate the run's own weights"
        )
    session = Session(weights)
    if classes is not None and (differs := classes.difference(session.classes)):
        raise ValueError(f"the dataset has other classes than weights={weights}: {differs}")
    entries = {"sem_seg"} | ({"panoptic_seg", "instances"} if session.is_panoptic else set())
    if missing := evaluation.outputs - entries:
        raise ValueError(f"weights={weights} is of task=semantic and has no {min(missing)}")

    def measure() -> dict[str, Any]:
        source = {"weights": weights}
        summary = evaluation(SessionModel(session, image_format), run_dir, source=source)
        before = session.metadata.provenance.get("results") or {}
        if summary and before.get("dataset") == evaluation.dataset:
            undefined = dict.fromkeys(summary["metrics"], math.nan)  # null in the file
            known = {n: value for n, value in before["metrics"].items() if value is not None}
            rows = {"exported": summary["metrics"], "its checkpoint": undefined | known}
            logger.info("Beside the weights it was made of\n%s", comparison_of_weights(rows))
            gaps = [
                abs(summary["metrics"][n] - known[n]) for n in summary["metrics"].keys() & known
            ]
            largest = max((gap for gap in gaps if not math.isnan(gap)), default=0.0)
            logger.info("Largest difference: %.4f", largest)
        return summary

    return measure


class SessionModel:
    """An exported file in the place of a model: Detectron2's inputs, and outputs for evaluators.

    "sem_seg" are (H, W) classes, "panoptic_seg" and "instances" as of `PanopticDeepLab`.
    """

    def __init__(self, session: Session, image_format: str) -> None:
        self.session, self.is_bgr = session, image_format == "BGR"

    def __call__(self, batch: Batch) -> Batch:
        images = [self._prepare(sample) for sample in batch]
        return [self._entries(output) for output in self.session.predict(images)]

    def _prepare(self, sample: dict[str, Any]) -> PreparedImage:
        pixels = sample["image"].flip(0) if self.is_bgr else sample["image"]
        size = int(sample["height"]), int(sample["width"])
        return PreparedImage(np.empty((0, 0, 3), np.uint8), (), pixels.numpy(), size)

    def _entries(self, output: NetworkOutput) -> dict[str, Any]:
        entries: dict[str, Any] = {"sem_seg": torch.from_numpy(output.semantic.astype(np.int64))}
        if output.panoptic is None:
            return entries
        entries["panoptic_seg"] = torch.from_numpy(output.panoptic).long(), None
        ids = np.unique(output.panoptic)
        categories = ids // self.session.label_divisor
        is_thing = (ids >= 0) & np.isin(categories, self.session.classes.thing_ids)
        assert output.scores is not None
        entries["instances"] = make_instances(
            [output.panoptic == i for i in ids[is_thing]],
            categories[is_thing].tolist(),
            output.scores.tolist(),
            output.panoptic.shape,
        )
        return entries


class Evaluation:
    """The evaluation of one dataset, ready to be called with a model as often as wanted."""

    def __init__(
        self,
        *,
        dataset: str,
        loader: Iterable[Batch],
        evaluators: Mapping[str, Callable[[], StreamingEvaluator[Any, Any]]],
        settings: dict[str, Any],
        official: Mapping[str, Callable[[], DatasetEvaluator]] | None = None,
        published: dict[str, float] | None = None,
        published_note: str | None = None,
        published_row: str | None = None,
        row: str | None = None,
    ) -> None:
        """Make the evaluators; ValueError for settings that cannot be.

        Args:
            loader: one image at a time, in Detectron2's input format.
            evaluators: make the evaluators, by name; their results are merged. None is made for a
                dataset without ground truth (metadata `has_truth`): its predictions can be saved.
            settings: fields of `EvaluationSettings`.
            official: make the official evaluators of the same metrics, by the same names.
            published, published_note: metrics in percent to compare with, and what to know of them.
            published_row, row: the combination of parts that they belong to (None: any), and ours.
        """
        self.dataset = dataset
        self.loader = loader
        self.has_truth = bool(MetadataCatalog.get(dataset).get("has_truth", True))
        makers = evaluators if self.has_truth else {}
        self.evaluators = {name: make() for name, make in makers.items()}
        self.settings = EvaluationSettings(**settings)
        makers = official or {} if self.settings.official and self.has_truth else {}
        self.official = {name: make() for name, make in makers.items()}
        # Refuse what cannot be saved or read now, not after the training.
        prediction_writers(dataset, self.settings.kinds, Path())
        self._check_files()
        for name, value in (published or {}).items():
            if name not in METRIC_NAMES or type(value) not in (int, float):
                raise ValueError(
                    f"published={published} must hold numbers by the names "
                    f"{', '.join(METRIC_NAMES)}"
                )
        self.published = published
        self.published_note = published_note
        if published and published_row not in (None, row):
            logger.warning(
                "Published metrics are those of %s, and not shown for %s", published_row, row
            )
            self.published = None

    def _check_files(self) -> None:
        """Raise ValueError where an image is listed twice, or the headers of files have a fault."""
        records: list[dict[str, Any]] = DatasetCatalog.get(self.dataset)
        source = MetadataCatalog.get(self.dataset).get("panoptic_json", self.dataset)
        require_own_ids(source, records)
        self.fingerprint = fingerprint(records)
        evaluators = self.evaluators.values()
        check_records(
            self.dataset,
            records,
            lambda record: [*dict.fromkeys(f for e in evaluators for f in e.truth_files(record))],
            seconds=SECONDS_FOR_HEADERS,
        )

    def check_folder(self, folder: Path) -> None:
        """Raise EvaluationError where predictions cannot be saved into `folder`, a run's."""
        for writer in prediction_writers(self.dataset, self.settings.kinds, folder / "predictions"):
            writer.own_files()

    @property
    def outputs(self) -> set[str]:
        """The entries of a model's output that are measured."""
        return {evaluator.needs for evaluator in self.evaluators.values()}

    @property
    def metric_names(self) -> Sequence[str]:
        """The metrics that there will be, or all where an evaluator does not say which it has."""
        tasks = [evaluator.tasks for evaluator in self.evaluators.values()]
        return headline_names(itertools.chain(*tasks)) if all(tasks) else METRIC_NAMES

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
        """Evaluate `model`, from a batch to Detectron2's outputs; called by every process.

        Writes `results.json`, `results.csv`, `results.md` and pictures into `folder`.

        Args:
            batches: instead of those of the loader.
            entries: of the model's output that are measured; by default all that can be.
            source: what is measured, such as a file of weights, for the record.
            limit: only so many images, over all processes, one for each at least, as a trial; the
                files written are marked as no result, official evaluators are left out.

        Returns:
            On the main process: `metrics` (the published columns, in percent; NaN where a metric is
            undefined), `results` (all that the evaluators return), `num_images`, `records` (a
            fingerprint of them), `details` (for loggers); {} elsewhere, and without ground truth.

        Raises EvaluationError: what evaluators refuse, or official metrics that differ from ours.
        """
        settings = self.settings
        weights = next(model.parameters(), None) if isinstance(model, nn.Module) else None
        device = torch.device("cpu") if weights is None else weights.device
        precision = plain_precision("evaluation.precision", settings.precision, device)
        if settings.test_time_augmentation and isinstance(model, nn.Module):
            model = TestTimeAugmentation(model, scales=settings.scales, flip=settings.flip)
        names = [n for n, e in self.evaluators.items() if entries is None or e.needs in entries]
        streaming = [self.evaluators[name] for name in names]
        official: list[DatasetEvaluator] = []
        if settings.official and limit is None:
            official = [self.official[name] for name in names if name in self.official]
        elif settings.official:
            logger.warning("Evaluators that need the whole split are left out of this trial")
        pictures = EvaluationPictures(self.dataset, folder, settings)
        saved, records, no_result = folder / "predictions", None, None
        if batches is None:
            batches = self.loader
            if device.type == "cuda" and isinstance(self.loader, DataLoader):
                batches = PrefetchedToGpu(self.loader, device)
        if limit is not None:
            batches, records, number = _limit(self.dataset, self.loader, limit)
            no_result = f"fast_dev_run: {number}, no result"
        writers = prediction_writers(self.dataset, settings.kinds, saved, records)
        if writers and comm.is_main_process():
            clear_other_kinds(self.dataset, settings.kinds, saved)
        threaded = ThreadedEvaluator(
            [*streaming, *writers],
            num_threads=settings.num_threads,
            on_image=pictures.on_image,
        )
        evaluators = DatasetEvaluators([threaded, *official])
        evaluators.reset()
        if records is not None:
            for stream in streaming:
                stream.limit(len(records))
        try:
            with arithmetic(precision, device):  # whatever precision a model is trained in
                predict(model, batches, [evaluators])
            results = threaded.evaluate() or {}
        finally:
            threaded.close()

        measured = {**(source or {}), "scales": settings.scales, "flip": settings.flip}
        if settings.precision == AUTO:
            measured["precision"] = f"auto ({precision})"
        elif precision not in ("fp32", "tf32"):
            measured["precision"] = precision
        summary: dict[str, Any] = {}
        unsaved: OSError | None = None
        if comm.is_main_process() and self.has_truth:  # before what may fail and lose the metrics
            summary = {
                "dataset": self.dataset,
                "measured": measured,
                "num_images": len(self.loader.dataset),  # type: ignore[attr-defined]
                "metrics": headline(results),
                # Of a network; whose files these are nobody knows.
                "published": None if "predictions" in (source or {}) else self.published,
                "published_note": self.published_note,
                "results": results,
            }
            if records is not None:
                summary = {"no_result": no_result, **summary}
                summary |= {"num_images": len(records), "published": None}
            self._print(summary)
            try:
                _save(summary, folder)
            except OSError as error:
                unsaved = error
        details = pictures.draw(results, streaming)
        if not self.has_truth:
            logger.info(
                "%s has no ground truth, so there are no figures. Predictions for servers: %s",
                self.dataset,
                saved,
            )
            return {}
        if official:
            logger.info("Running the official evaluators ...")
        try:
            official_results = DatasetEvaluators(official).evaluate()
        except (ValueError, OSError):
            raise
        except Exception as error:  # scripts of others, which check little of what they read
            raise EvaluationError(
                "evaluation.official=true: an official script cannot work with these files "
                f"({type(error).__name__}: {error}); without it there are our own metrics"
            ) from error
        if not comm.is_main_process():
            return {}
        if settings.kinds:
            logger.info("Predictions for servers: %s", saved)
        if official:
            self._compare(results, official_results)
        if unsaved is not None:  # only now: other processes waited for this one above
            raise unsaved
        return {**summary, "records": self.fingerprint, "details": details}

    def _print(self, summary: dict[str, Any]) -> None:
        logger.info(
            "%s on %s (%d images)\n%s",
            summary.get("no_result", "Results"),
            summary["dataset"],
            summary["num_images"],
            summary_table(summary),
        )
        for note in notes(summary):
            logger.info("Note: %s", note)
        if self.settings.per_class:
            for table in class_tables(summary["results"]):
                logger.info("%s\n%s", table.title, table.text())

    def _compare(self, own: Results, official: Results) -> None:
        pairs = pair_up(own, official)
        shown = [p for p in pairs if self.settings.per_class or "-" not in p.name or not p.agrees]
        rows = [(f"{p.task} {p.name}", p.own, p.official, p.difference) for p in shown]
        logger.info("Own and official metrics\n%s", comparison_table(rows))
        require_agreement(pairs)
        logger.info("All %d metrics agree with the official evaluators'", len(pairs))


def _save(summary: dict[str, Any], folder: Path) -> None:
    texts = {
        RESULTS: json.dumps(as_json(summary), indent=2, allow_nan=False) + "\n",
        "results.csv": results_csv(summary),
        "results.md": results_markdown(summary),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)


def predict(model: Model, batches: Iterable[Batch], evaluators: Iterable[DatasetEvaluator]) -> None:
    """Give all `batches` of this process to a model, and its outputs to evaluators.

    A model that is a module is put in evaluation mode meanwhile.
    """
    size = comm.get_world_size()
    progress = Progress(
        f"evaluated by the first of {size} processes" if size > 1 else "evaluated",
        len(batches),  # type: ignore[arg-type]
        shown=comm.is_main_process(),
    )
    mode = inference_context(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    with progress, mode, torch.no_grad():
        for inputs in batches:
            outputs = model(inputs)
            for evaluator in evaluators:
                evaluator.process(inputs, outputs)
            progress.add(len(inputs))


def _limit(
    dataset: str, loader: Iterable[Batch], limit: int
) -> tuple[list[Batch], list[dict[str, Any]], str]:
    """The first batches of this process's share of a split, and the records of all such images."""
    records: list[dict[str, Any]] = DatasetCatalog.get(dataset)
    share = list(InferenceSampler(len(records)))[: -(-limit // comm.get_world_size())]
    positions = sorted(itertools.chain(*comm.all_gather(share)))
    batches = list(itertools.islice(loader, len(share)))
    chosen = [records[position] for position in positions]
    return batches, chosen, f"{len(chosen)} of {len(records)} images"
