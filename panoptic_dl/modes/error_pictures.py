"""The pictures of an evaluation: first, best and worst images, bars of classes, confusions.

Each process keeps the predictions of its best and worst images, compressed. At the end the
processes exchange qualities, agree on the best and worst of all, and each draws its own.

Shapes: H W pixels, K classes.
"""

import math
import re
import zlib
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.distributed import concatenate_over_processes
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import read_image, read_panoptic_ids
from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.evaluation.error_map import (
    PANOPTIC_KINDS,
    SEMANTIC_KINDS,
    panoptic_error_map,
    semantic_error_map,
)
from panoptic_dl.evaluation.evaluator import StreamingEvaluator
from panoptic_dl.evaluation.metrics import CLASS_CHARTS, Results
from panoptic_dl.evaluation.panoptic import match_segments
from panoptic_dl.evaluation.semantic import count_confusions, predicted_labels
from panoptic_dl.loggers.base import Confusions, Details
from panoptic_dl.visualize.charts import draw_class_bars, draw_confusions
from panoptic_dl.visualize.evaluator import PictureEvaluator, ground_truth_map
from panoptic_dl.visualize.overlays import draw_errors, error_legend
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.sheets import clear_gallery, fit, join_sheets, save_sheet
from panoptic_dl.visualize.style import Color, class_colors

HEADINGS = ("image", "truth", "prediction", "errors")
CELL_WIDTH, CELL_HEIGHT = 640, 480  # pixels; the height of a portrait, which is narrower
OURS = re.compile(r"(worst|best)(-\d+-.*)?\.png")
CONFUSIONS = "confusions.png"
CHARTS = (CONFUSIONS, *(f"{metric.lower()}_by_class.png" for _, metric, _ in CLASS_CHARTS))

Evaluators = Sequence[StreamingEvaluator[Any, Any]]
ImageRow = tuple[list[np.ndarray], str, list[tuple[str, Color]]]
"""Four pictures (height, width, 3) for HEADINGS, RGB 0..255; the errors in words; a legend."""


class EvaluationPictures:
    """Keeps what is to be drawn of an evaluation, and draws it at its end."""

    def __init__(self, dataset: str, folder: Path, settings: EvaluationSettings) -> None:
        """
        Args:
            dataset: name in Detectron2's catalogs.
            folder: of the run; `predictions.png` and `pictures/` go there. Those of an earlier
                evaluation are deleted.
            settings: how many images are drawn, and whether charts are.
        """
        self.dataset, self.settings = dataset, settings
        self.folder = folder / "pictures"
        self._first: PictureEvaluator | None = None
        if comm.is_main_process():
            for old in (folder / "predictions.png", *(self.folder / name for name in CHARTS)):
                old.unlink(missing_ok=True)
            clear_gallery(self.folder / "gallery")
            if settings.picture_count:
                self._first = PictureEvaluator(
                    dataset,
                    settings.picture_count,
                    folder / "predictions.png",
                    self.folder / "gallery",
                )
                self._first.reset()
        self._errors = ErrorPictures(dataset, settings.best_and_worst, self.folder)

    def on_image(self, item: dict[str, Any], output: dict[str, Any], quality: float) -> None:
        """Keep a prediction if it is to be drawn; see `ThreadedEvaluator`."""
        if self._first is not None:
            self._first.process([item], [output])
        self._errors.on_image(item, output, quality)

    def draw(self, results: Results, evaluators: Evaluators) -> list[Path]:
        """Draw the pictures; every process must call this.

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
        confused = _with_confusions(evaluators)
        if confused is not None:
            title = f"Confusions on {self.dataset}"
            files.append(self.folder / CONFUSIONS)
            draw_confusions(confused.confusions, confused.names, files[-1], title=title)
        return files + self._draw_bars(results)

    def details(self, results: Results, evaluators: Evaluators, files: Sequence[Path]) -> Details:
        """What loggers show of an evaluation that was drawn, in the main process."""
        confused = _with_confusions(evaluators)
        return Details(
            results=results,
            samples=() if self._first is None else tuple(self._first.samples),
            class_names=MetadataCatalog.get(self.dataset).stuff_classes,
            confusions=None
            if confused is None
            else Confusions(confused.names, confused.confusions),
            pictures=files,
        )

    def _draw_bars(self, results: Results) -> list[Path]:
        metadata = MetadataCatalog.get(self.dataset)
        ids = metadata.get("thing_dataset_id_to_contiguous_id", {}).values()
        things = {metadata.stuff_classes[index] for index in ids}
        files = []
        for task, metric, others in CLASS_CHARTS:
            of_task = results.get(task, {})
            values = _of_classes(of_task, metric)
            if values:
                files.append(self.folder / f"{metric.lower()}_by_class.png")
                draw_class_bars(
                    values,
                    files[-1],
                    title=f"{metric} by class on {self.dataset}",
                    measure=metric,
                    things=things or None,
                    others={other: _of_classes(of_task, other) for other in others},
                )
        return files


def _with_confusions(evaluators: Evaluators) -> Any:
    """The evaluator whose confusions are shown: the semantic one if there is one; or None."""
    found = [e for e in evaluators if getattr(e, "confusions", None) is not None]
    return min(found, key=lambda e: e.needs != "sem_seg", default=None)


def _of_classes(metrics: Any, metric: str) -> dict[str, float]:
    return {
        key.removeprefix(f"{metric}-"): float(value)
        for key, value in metrics.items()
        if key.startswith(f"{metric}-")
    }


Kept = TypeVar("Kept")
Key = tuple[float, int]  # quality, index of the image, which makes keys unique


class TopK(Generic[Kept]):
    """Objects by key, of which those of the k lowest and the k highest keys are kept.

    Attributes:
        keys: in ascending order; at most 2 * k.
        kept: the object of each key.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.keys: list[Key] = []
        self.kept: dict[Key, Kept] = {}

    def add(self, key: Key, make: Callable[[], Kept]) -> None:
        """Keep what `make` returns if the key is among them; a quality of NaN never is."""
        if math.isnan(key[0]):
            return
        insort(self.keys, key)
        if len(self.keys) > 2 * self.k:
            middle = self.keys.pop(self.k)
            if middle == key:
                return
            del self.kept[middle]
        self.kept[key] = make()


def worst_and_best(keys: Iterable[Key], k: int) -> tuple[list[Key], list[Key]]:
    """The k lowest keys in ascending order, and the k highest in descending order.

    Of fewer than 2 * k keys half are the lowest (of an odd number, the larger half).
    """
    ordered = sorted(keys)
    num_worst = min(k, (len(ordered) + 1) // 2)
    num_best = min(k, len(ordered) - num_worst)
    return ordered[:num_worst], ordered[::-1][:num_best]


class ErrorPictures:
    """Keeps the predictions of the best and the worst images, and draws their errors."""

    def __init__(self, dataset: str, count: int, folder: Path) -> None:
        """
        Args:
            dataset: name in Detectron2's catalogs; ground truth is read from its records.
            count: how many of the best, and of the worst, are drawn; 0 for none.
            folder: takes the PNGs; processes on several machines must share it.
        """
        self.dataset, self.count, self.folder = dataset, count, folder
        self._drawer = ErrorDrawer(MetadataCatalog.get(dataset))
        listed = DatasetCatalog.get(dataset) if count else []  # COCO's take seconds to read
        self._records: list[dict[str, Any]] = sorted(listed, key=lambda item: item["file_name"])
        self._indices = {record["file_name"]: i for i, record in enumerate(self._records)}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        # Panoptic maps of a street take some 100 KB compressed instead of 8 MB.
        self._top: TopK[tuple[bytes, tuple[int, ...]]] = TopK(self.count)
        self._metric = "PQ"

    def on_image(self, item: dict[str, Any], output: dict[str, Any], quality: float) -> None:
        """Keep the prediction of an image if it is one of the best or worst so far.

        Args:
            item: "file_name" is used.
            output: "panoptic_seg": (H, W) of category * label_divisor + instance, -1 where void,
                and None; otherwise "sem_seg": (K, H, W) scores, or (H, W) classes, -1 for none.
            quality: of the image, 0..1: its PQ, or mIoU; it is left out if NaN.

        Raises:
            EvaluationError: the image is not in the dataset, or a prediction has another form.
        """
        if not self.count:
            return
        if item["file_name"] not in self._indices:
            raise EvaluationError(f"{item['file_name']} is not among the images of {self.dataset}")
        self._metric = "PQ" if "panoptic_seg" in output else "mIoU"
        key = float(quality), self._indices[item["file_name"]]
        self._top.add(key, lambda: _compress(self._prediction(output)))

    def draw(self) -> list[Path]:
        """Draw the best and worst images of all processes; every process must call this.

        Writes `worst-<rank>-<image>.png`, `best-...` and a sheet of each, `worst.png`, `best.png`,
        into the folder, where those of an earlier evaluation are deleted. An image is drawn once,
        even where the dataset has fewer than 2 * count.

        Returns:
            The files of the sheets in the main process; [] elsewhere, and without any image.
        """
        if comm.is_main_process() and self.folder.is_dir():
            for old in self.folder.iterdir():
                if OURS.fullmatch(old.name):
                    old.unlink()
        if not self.count:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        own = np.array(self._top.keys, np.float64).reshape(-1, 2)
        everyone = concatenate_over_processes(own)  # also waits until the old files are gone
        keys = [(float(quality), int(index)) for quality, index in everyone]
        parts: dict[str, list[Path]] = {"worst": [], "best": []}
        for kind, chosen in zip(parts, worst_and_best(keys, self.count), strict=True):
            for rank, key in enumerate(chosen, 1):
                name = Path(self._records[key[1]]["file_name"]).stem
                safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
                parts[kind].append(self.folder / f"{kind}-{rank}-{safe}.png")
                if key in self._top.kept:
                    self._draw(key, f"{kind} {rank}:  {name}", parts[kind][-1])
        comm.synchronize()
        if not comm.is_main_process():
            return []
        sheets = []
        for kind, files in parts.items():
            if files:
                sheets.append(self.folder / f"{kind}.png")
                join_sheets(files, sheets[-1])
        return sheets

    def _prediction(self, output: dict[str, Any]) -> np.ndarray:
        """The map (H, W) that is kept; -1 is void."""
        if "panoptic_seg" not in output:
            num_classes = len(self._drawer.names)
            classes = predicted_labels(output["sem_seg"], num_classes)
            return np.where(classes == num_classes, -1, classes)
        panoptic, segments = output["panoptic_seg"]
        if segments is not None:
            raise EvaluationError(
                "pictures of errors need a panoptic map of category * label_divisor + instance "
                "and no list of segments"
            )
        kept: np.ndarray = panoptic.cpu().numpy()
        return kept

    def _draw(self, key: Key, caption: str, file: Path) -> None:
        quality, index = key
        record = self._records[index]
        prediction = _expand(*self._top.kept[key])
        size = fit(prediction.shape, CELL_WIDTH, CELL_HEIGHT)
        draw = self._drawer.panoptic if self._metric == "PQ" else self._drawer.semantic
        pictures, words, legend = draw(record, prediction, size)
        save_sheet(
            [pictures],
            HEADINGS,
            file,
            captions=[f"{caption}  ·  {self._metric} {100 * quality:.1f}  ·  {words}"],
            title=self.dataset,
            legend=legend,
            cell_width=CELL_WIDTH,
            cell_height=CELL_HEIGHT,
        )


def _compress(values: np.ndarray) -> tuple[bytes, tuple[int, ...]]:
    return zlib.compress(np.ascontiguousarray(values, np.int32).tobytes(), 1), values.shape


def _expand(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(zlib.decompress(data), np.int32).reshape(shape).astype(np.int64)


class ErrorDrawer:
    """Draws an image of a dataset as image | truth | prediction | errors."""

    def __init__(self, metadata: Any) -> None:
        """Args: metadata: of the dataset, in Detectron2's catalog."""
        self.names: list[str] = metadata.stuff_classes
        self.short_names = [name.split("-merged")[0] for name in self.names]
        self.things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        self.label_divisor = int(metadata.get("label_divisor", 1000))
        self.drawer = SegmentDrawer(
            names=self.names,
            colors=class_colors(metadata, len(self.names)),
            thing_ids=self.things,
            label_divisor=self.label_divisor,
        )

    def panoptic(
        self, record: dict[str, Any], prediction: np.ndarray, size: tuple[int, int]
    ) -> ImageRow:
        """Draw a panoptic prediction (H, W) of a dataset's record; `size` is (width, height).

        Raises:
            EvaluationError: the ground truth cannot be read, or does not fit the prediction.
        """
        ids = read_panoptic_ids(record["pan_seg_file_name"])
        matches = match_segments(
            ids,
            record["segments_info"],
            prediction,
            num_classes=len(self.names),
            label_divisor=self.label_divisor,
        )
        kinds = panoptic_error_map(ids, record["segments_info"], prediction, matches)
        num_true = len(matches.pairs) + len(matches.false_negatives)
        words = [f"{len(matches.pairs)} of {num_true} segments found"]
        if len(matches.false_negatives):
            words.append(f"missed: {self._count(matches.false_negatives)}")
        if len(matches.false_positives):
            words.append(f"false positives: {self._count(matches.false_positives)}")
        truth = ground_truth_map(record, self.things, self.label_divisor)
        pictures = self._draw(record, truth, prediction, kinds, PANOPTIC_KINDS, size)
        return pictures, "  ·  ".join(words), error_legend(PANOPTIC_KINDS)

    def semantic(
        self, record: dict[str, Any], prediction: np.ndarray, size: tuple[int, int]
    ) -> ImageRow:
        """Draw predicted classes (H, W), -1 for none; see `panoptic`."""
        truth = ground_truth_map(record, self.things, self.label_divisor) // self.label_divisor
        kinds = semantic_error_map(truth, prediction)
        true, predicted = (  # as panoptic maps; -1 is none in both
            np.where(classes < 0, -1, classes * self.label_divisor)
            for classes in (truth, prediction)
        )
        pictures = self._draw(record, true, predicted, kinds, SEMANTIC_KINDS, size)
        return pictures, self._confusions(truth, prediction), error_legend(SEMANTIC_KINDS)

    def _draw(
        self,
        record: dict[str, Any],
        truth: np.ndarray,
        prediction: np.ndarray,
        kinds: np.ndarray,
        names: Sequence[str],
        size: tuple[int, int],
    ) -> list[np.ndarray]:
        image = Image.fromarray(read_image(record["file_name"], "RGB"))
        small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        # Segments are named at the size of the cell, where writing stays sharp. Errors, which may
        # be one pixel wide, are painted in full and then averaged.
        maps = [
            self.drawer.panoptic(small, _resize(segments, size)) for segments in (truth, prediction)
        ]
        errors = Image.fromarray(draw_errors(np.asarray(image), kinds, names))
        larger = size[0] > errors.width
        resampling = Image.Resampling.NEAREST if larger else Image.Resampling.BOX
        return [small, *maps, np.asarray(errors.resize(size, resampling))]

    def _count(self, categories: Iterable[int]) -> str:
        """The number of each class, "3 car, 1 bus", the most frequent first."""
        counts = Counter(int(category) for category in categories)
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{number} {self.short_names[category]}" for category, number in ordered)

    def _confusions(self, truth: np.ndarray, prediction: np.ndarray, most: int = 4) -> str:
        """The share of pixels that are right, and the most frequent confusions of classes."""
        number = len(self.names)
        counts = count_confusions(
            np.where(truth < 0, number, truth),
            np.where(prediction < 0, number, prediction),
            number + 1,
            number + 1,
        )[:-1]
        total = max(1, int(counts.sum()))
        words = f"{100 * np.trace(counts) / total:.1f} % of pixels right"
        wrong = counts.copy()
        np.fill_diagonal(wrong, 0)
        names = [*self.short_names, "nothing"]
        mistakes = []
        for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
            true, predicted = divmod(int(place), number + 1)
            share = 100 * wrong[true, predicted] / total
            if share >= 0.05:  # less would be printed as zero
                mistakes.append(f"{names[true]} as {names[predicted]} {share:.1f} %")
        return f"{words}  ·  wrong: {', '.join(mistakes)}" if mistakes else words


def _resize(segments: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (H, W) at `size`, (width, height), by the pixels nearest."""
    values = Image.fromarray(segments.astype(np.int32))
    return np.asarray(values.resize(size, Image.Resampling.NEAREST)).astype(np.int64)
