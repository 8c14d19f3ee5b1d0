"""The pictures of an evaluation: first, best and worst images, bars of classes, confusions.

Each process keeps the predictions of its best and worst images, compressed. At the end the main
one gathers them, and draws the best and worst of all.

Shapes: H W pixels, K classes. Panoptic maps hold category * DIVISOR + instance; -1 is void.
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.images import (
    VOID_LABEL,
    read_classes,
    read_image,
    read_panoptic_ids,
    segment_numbers,
)
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
from panoptic_dl.loggers.base import Details
from panoptic_dl.report.results import class_metrics
from panoptic_dl.visualize.charts import draw_class_bars, draw_confusions
from panoptic_dl.visualize.overlays import draw_errors, error_legend
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.sheets import (
    HEADINGS,
    Sample,
    clear_gallery,
    fit,
    resize_map,
    save_gallery,
    save_sheet,
)

CELL_WIDTH = 640  # pixels
CONFUSIONS = "confusions.png"
CHARTS = [f"{metric.lower()}_by_class.png" for _, metric, _ in CLASS_CHARTS]
PICTURES = ("worst.png", "best.png", CONFUSIONS, *CHARTS)

DIVISOR = 2**16  # more than segments in an image, see `segment_numbers`

Picture = NDArray[np.uint8]
Evaluators = Sequence[StreamingEvaluator[Any, Any]]
Key = tuple[float, int]  # quality, index of the image, which makes keys unique


class EvaluationPictures:
    """Keeps what is to be drawn of an evaluation, and draws it at its end."""

    def __init__(self, dataset: str, folder: Path, settings: EvaluationSettings) -> None:
        """`predictions.png` and `pictures/` go to `folder`, a run's; older ones are deleted."""
        self.dataset, self.settings = dataset, settings
        self.folder, self.sheet = folder / "pictures", folder / "predictions.png"
        metadata = MetadataCatalog.get(dataset)
        self.names: list[str] = metadata.stuff_classes
        self.things = set(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        self.ignore_label = metadata.ignore_label
        self.drawer = SegmentDrawer(
            names=self.names,
            colors=metadata.stuff_colors,
            thing_ids=self.things,
            label_divisor=DIVISOR,
            text_scale=1.35,  # cells of a sheet are shown smaller than they are
        )
        self._num_first = 0
        if comm.is_main_process():
            self._num_first = settings.picture_count
            for old in (self.sheet, *(self.folder / name for name in PICTURES)):
                old.unlink(missing_ok=True)
            clear_gallery(self.folder / "gallery")
        wanted = self._num_first or settings.best_and_worst
        listed = DatasetCatalog.get(dataset) if wanted else []  # COCO's take seconds to read
        self._records: list[dict[str, Any]] = sorted(listed, key=lambda item: item["file_name"])
        self._indices = {record["file_name"]: i for i, record in enumerate(self._records)}
        self._rows: list[list[NDArray[np.uint8]]] = []  # the first images, by HEADINGS
        self._samples: list[Sample] = []  # the same images, for loggers
        self._metric = "PQ"
        # Of the worst and the best images so far. Panoptic maps of a street take some 100 KB
        # compressed instead of 8 MB.
        self._kept: dict[Key, tuple[bytes, tuple[int, ...]]] = {}

    def on_image(self, item: dict[str, Any], output: dict[str, Any], quality: float) -> None:
        """Keep the prediction of an image (of `StreamingEvaluator.as_output`) if it is to be drawn.

        Its quality, 0..1, is its PQ, or mIoU; NaN is neither among the best nor worst.
        """
        if not self._records:
            return
        self._metric = "PQ" if "panoptic_seg" in output else "mIoU"
        index = self._indices[item["file_name"]]
        if len(self._rows) < self._num_first:
            self._draw_first(self._records[index], self._prediction(output))
        if math.isnan(quality):
            return
        key, number = (float(quality), index), self.settings.best_and_worst
        keys = sorted([*self._kept, key])
        if len(keys) > 2 * number:
            if keys[number] == key:
                return
            del self._kept[keys[number]]
        self._kept[key] = _compress(self._prediction(output))

    def draw(self, results: Results, evaluators: Evaluators) -> Details:
        """Draw the pictures; every process must call this. The main one returns what loggers show.

        Of the evaluators the `confusions` are drawn, those of the semantic one if there is one; of
        the best and worst images loggers get only the sheets.
        """
        files = self._draw_best_and_worst()
        if self._rows:
            save_sheet(self._rows, HEADINGS, self.sheet)
            names = [sample.name for sample in self._samples]
            save_gallery(names, self._rows, self.folder / "gallery")
            files.insert(0, self.sheet)
        found = [e for e in evaluators if getattr(e, "confusions", None) is not None]
        confused: Any = min(found, key=lambda e: e.needs != "sem_seg", default=None)
        if self.settings.charts and comm.is_main_process():
            files += self._draw_charts(results, confused)
        return Details(
            results=results,
            samples=tuple(self._samples),
            pictures=files,
        )

    def _draw_charts(self, results: Results, confused: Any) -> list[Path]:
        files = []
        if confused is not None:
            files.append(self.folder / CONFUSIONS)
            title = f"Confusions on {self.dataset}"
            draw_confusions(confused.confusions, confused.names, files[-1], title=title)
        things = {self.names[index] for index in self.things}
        for task, metric, others in CLASS_CHARTS:
            by_metric = class_metrics(results.get(task, {}))
            if metric in by_metric:
                files.append(self.folder / f"{metric.lower()}_by_class.png")
                draw_class_bars(
                    by_metric[metric],
                    files[-1],
                    title=f"{metric} by class on {self.dataset}",
                    measure=metric,
                    things=things or None,
                    others={name: by_metric.get(name, {}) for name in others},
                )
        return files

    def _prediction(self, output: dict[str, Any]) -> NDArray[np.int64]:
        """The panoptic map (H, W) of an output; of classes alone all are instance 0."""
        if "panoptic_seg" in output:
            labels = output["panoptic_seg"][0].numpy().astype(np.int64)
            categories, numbers = np.divmod(labels, output["label_divisor"])
            return np.where(labels < 0, VOID_LABEL, categories * DIVISOR + numbers)
        classes = output["sem_seg"].numpy().astype(np.int64)
        is_class = (classes >= 0) & (classes < len(self.names))
        return np.where(is_class, classes * DIVISOR, VOID_LABEL)

    def _draw_first(self, record: dict[str, Any], prediction: NDArray[np.int64]) -> None:
        image = read_image(record["file_name"], "RGB")
        truth = _ground_truth(record, self.things, self.ignore_label)
        self._rows.append(self._draw_row(image, truth, prediction))
        name = Path(record["file_name"]).stem
        self._samples.append(Sample(name, *self._rows[-1]))

    def _draw_best_and_worst(self) -> list[Path]:
        """Draw a sheet of each; in the main process."""
        if not self.settings.best_and_worst:
            return []
        kept: dict[Key, Any] = {}
        for of_process in comm.gather(self._kept):  # nothing in other processes
            kept |= of_process
        sheets = []
        chosen = _worst_and_best(kept, self.settings.best_and_worst)
        for kind, keys in zip(("worst", "best"), chosen, strict=True):
            rows, captions = [], []
            for rank, (quality, index) in enumerate(keys, 1):
                row, words = self._draw_errors(self._records[index], _expand(*kept[quality, index]))
                rows.append(row)
                name = f"{kind} {rank}:  {Path(self._records[index]['file_name']).stem}"
                captions.append(f"{name}  ·  {self._metric} {100 * quality:.1f}  ·  {words}")
            if rows:
                sheets.append(self.folder / f"{kind}.png")
                kinds = PANOPTIC_KINDS if self._metric == "PQ" else SEMANTIC_KINDS
                about: Any = {"captions": captions, "title": self.dataset}
                about |= {"legend": error_legend(kinds), "cell_width": CELL_WIDTH}
                save_sheet(rows, (*HEADINGS, "errors"), sheets[-1], **about)
        return sheets

    def _draw_errors(
        self, record: dict[str, Any], prediction: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.uint8]], str]:
        """An image as image | truth | prediction | errors, and the errors in words."""
        truth = _ground_truth(record, self.things, self.ignore_label)
        if self._metric == "PQ":
            names: Sequence[str] = PANOPTIC_KINDS
            kinds, words = self._panoptic_errors(record, prediction)
        else:
            names = SEMANTIC_KINDS
            true, predicted = truth // DIVISOR, prediction // DIVISOR
            kinds = semantic_error_map(true, predicted)
            labeled = true >= 0
            share = (true == predicted)[labeled].mean() if labeled.any() else 0.0
            words = f"{100 * share:.1f} % of pixels right"
            truth = np.where(true < 0, VOID_LABEL, true * DIVISOR)  # no instances
        image = read_image(record["file_name"], "RGB")
        # Errors, which may be one pixel wide, are painted in full and then averaged.
        errors = draw_errors(image, kinds, names)
        return [*self._draw_row(image, truth, prediction), errors], words

    def _draw_row(self, image: Picture, *maps: NDArray[np.int64]) -> list[Picture]:
        """An image and its maps (H, W), drawn at the size of a cell: there writing is sharp."""
        size = fit(image.shape, CELL_WIDTH)
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        return [small, *(self.drawer.panoptic(small, resize_map(each, size)) for each in maps)]

    def _panoptic_errors(
        self, record: dict[str, Any], prediction: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], str]:
        """Positions in PANOPTIC_KINDS (H, W), and the number of errors by class."""
        ids, info = read_panoptic_ids(record["pan_seg_file_name"]), record["segments_info"]
        matches = match_segments(
            ids,
            info,
            prediction,
            num_classes=len(self.names),
            label_divisor=DIVISOR,
        )
        num_true = len(matches.pairs) + len(matches.false_negatives)
        words = [f"{len(matches.pairs)} of {num_true} segments found"]
        if len(matches.false_negatives):
            words.append(f"missed: {self._count(matches.false_negatives)}")
        if len(matches.false_positives):
            words.append(f"false positives: {self._count(matches.false_positives)}")
        return panoptic_error_map(ids, info, prediction, matches), "  ·  ".join(words)

    def _count(self, categories: Iterable[int]) -> str:
        """The number of each class, "3 car, 1 bus", the most frequent first."""
        counts = Counter(int(category) for category in categories)
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{number} {self.drawer.names[category]}" for category, number in ordered)


def _worst_and_best(keys: Iterable[Key], count: int) -> tuple[list[Key], list[Key]]:
    """The `count` lowest keys, ascending, and highest, descending; of too few, half each."""
    ordered = sorted(keys)
    num_worst = min(count, (len(ordered) + 1) // 2)
    num_best = min(count, len(ordered) - num_worst)
    return ordered[:num_worst], ordered[::-1][:num_best]


def _compress(values: NDArray[np.int64]) -> tuple[bytes, tuple[int, ...]]:
    return zlib.compress(np.ascontiguousarray(values, np.int32).tobytes(), 1), values.shape


def _expand(data: bytes, shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.frombuffer(zlib.decompress(data), np.int32).reshape(shape).astype(np.int64)


def _ground_truth(
    record: dict[str, Any], thing_ids: Iterable[int], ignore_label: int
) -> NDArray[np.int64]:
    """The panoptic map (H, W) of a record; stuff, and all of semantic labels, is instance 0."""
    if "pan_seg_file_name" not in record:
        classes = read_classes(record["sem_seg_file_name"]).astype(np.int64)
        return np.where(classes == ignore_label, VOID_LABEL, classes * DIVISOR)
    labels, segments = [VOID_LABEL], record["segments_info"]
    for number, segment in enumerate(segments, start=1):
        category = segment["category_id"]
        labels.append(category * DIVISOR + (number if category in thing_ids else 0))
    ids = read_panoptic_ids(record["pan_seg_file_name"])
    return np.array(labels, np.int64)[segment_numbers(ids, [each["id"] for each in segments])]
