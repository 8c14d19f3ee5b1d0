"""The pictures of an evaluation: first, best and worst images, bars of classes, confusions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.evaluation.figures import Results
from panoptic_dl.evaluation.stream import StreamingEvaluator
from panoptic_dl.loggers.interface import Confusions, Details
from panoptic_dl.visualize.class_bars import draw_class_bars
from panoptic_dl.visualize.confusion_matrix import draw_confusions
from panoptic_dl.visualize.evaluator import PictureEvaluator
from panoptic_dl.visualize.gallery import clear_gallery

from .error_pictures import ErrorPictures
from .evaluation_settings import EvaluationSettings

BARS = (  # what is drawn of each class: task, measure, measures marked beside
    ("panoptic_seg", "PQ", ("SQ", "RQ")),
    ("sem_seg", "IoU", ()),
)


CONFUSIONS = "confusions.png"
CHARTS = (CONFUSIONS, *(f"{measure.lower()}_by_class.png" for _, measure, _ in BARS))


class EvaluationPictures:
    """What is remembered of an evaluation to be drawn, and drawn at its end."""

    def __init__(self, dataset: str, folder: Path, settings: EvaluationSettings) -> None:
        """
        Args:
            dataset: name in Detectron2's catalogs.
            folder: of the run; `predictions.png` and `pictures/` go there.
            settings: how many images are drawn, and whether charts are.
        """
        self.dataset = dataset
        self.folder = folder
        self.settings = settings
        if comm.is_main_process():  # what an earlier evaluation drew is not of this one
            for old in (
                folder / "predictions.png",
                *(folder / "pictures" / name for name in CHARTS),
            ):
                old.unlink(missing_ok=True)
            clear_gallery(folder / "pictures" / "gallery")
        self._errors = ErrorPictures(dataset, settings.best_and_worst, folder / "pictures")
        count = settings.picture_count if comm.is_main_process() else 0
        self._first: PictureEvaluator | None = None
        if count:
            self._first = PictureEvaluator(
                dataset, count, folder / "predictions.png", folder / "pictures" / "gallery"
            )
            self._first.reset()

    def offer(self, item: dict[str, Any], output: dict[str, Any], quality: float) -> None:
        """Remember a prediction if it is to be drawn; see `Beside`."""
        if self._first is not None:
            self._first.process([item], [output])
        self._errors.offer(item, output, quality)

    def draw(
        self, results: Results, evaluators: Sequence[StreamingEvaluator[Any, Any]]
    ) -> list[Path]:
        """Draw what an evaluation has found; every process must call this.

        Args:
            results: of all evaluators; used in the main process.
            evaluators: their `confusions` are drawn, those of the semantic one if there is one.

        Returns:
            The files, in the main process.
        """
        files = self._errors.draw()
        if self._first is not None and self._first.rows:
            self._first.evaluate()
            files.insert(0, self._first.file)
        if not comm.is_main_process() or not self.settings.charts:
            return files
        chosen = _confused(evaluators)
        if chosen is not None:
            file = self.folder / "pictures" / CONFUSIONS
            draw_confusions(
                chosen.confusions, chosen.names, file, title=f"Confusions on {self.dataset}"
            )
            files.append(file)
        return files + self._draw_bars(results)

    def details(
        self,
        results: Results,
        evaluators: Sequence[StreamingEvaluator[Any, Any]],
        files: Sequence[Path],
    ) -> Details:
        """What loggers show of an evaluation that was drawn, in the main process."""
        chosen = _confused(evaluators)
        return Details(
            results=results,
            samples=() if self._first is None else tuple(self._first.samples),
            class_names=MetadataCatalog.get(self.dataset).stuff_classes,
            confusions=None if chosen is None else Confusions(chosen.names, chosen.confusions),
            pictures=files,
        )

    def _draw_bars(self, results: Results) -> list[Path]:
        metadata = MetadataCatalog.get(self.dataset)
        ids = metadata.get("thing_dataset_id_to_contiguous_id", {}).values()
        things = {metadata.stuff_classes[index] for index in ids}
        files = []
        for task, measure, others in BARS:
            values, *marked = (
                _of_classes(results.get(task, {}), name) for name in (measure, *others)
            )
            if values:
                files.append(self.folder / "pictures" / f"{measure.lower()}_by_class.png")
                draw_class_bars(
                    values,
                    files[-1],
                    title=f"{measure} by class on {self.dataset}",
                    measure=measure,
                    things=things or None,
                    others=dict(zip(others, marked, strict=True)),
                )
        return files


def _confused(evaluators: Sequence[StreamingEvaluator[Any, Any]]) -> Any:
    """The evaluator whose confusions are shown: the semantic one if there is one; or None."""
    confused = [e for e in evaluators if getattr(e, "confusions", None) is not None]
    return next((e for e in confused if e.needs == "sem_seg"), next(iter(confused), None))


def _of_classes(figures: Any, measure: str) -> dict[str, float]:
    return {
        key.removeprefix(f"{measure}-"): float(value)
        for key, value in figures.items()
        if key.startswith(f"{measure}-")
    }
