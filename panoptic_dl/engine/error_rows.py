"""One image of an evaluation as image | truth | prediction | errors, and its errors in words.

Shapes: H W pixels, K classes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from panoptic_dl.evaluation.confusion import count_confusions
from panoptic_dl.evaluation.error_map import (
    PANOPTIC_KINDS,
    SEMANTIC_KINDS,
    panoptic_error_map,
    semantic_error_map,
)
from panoptic_dl.evaluation.label_files import read_panoptic_ids
from panoptic_dl.evaluation.segment_matching import match_segments
from panoptic_dl.visualize.error_overlay import draw_errors, error_legend
from panoptic_dl.visualize.evaluator import truth_map
from panoptic_dl.visualize.palette import class_colors
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.sheet import Color

HEADINGS = ("image", "truth", "prediction", "errors")


@dataclass(frozen=True)
class Row:
    """Four pictures (height, width, 3) for HEADINGS, RGB 0..255; errors in words; a legend."""

    pictures: list[np.ndarray]
    words: str
    legend: list[tuple[str, Color]]


class RowDrawer:
    """Draws images of one dataset."""

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
    ) -> Row:
        """Draw a panoptic prediction (H, W) of a dataset's record; `size` is (width, height).

        Raises:
            EvaluationError: the truth cannot be read, or does not fit the prediction.
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
        truth = truth_map(record, self.things, self.label_divisor)
        pictures = self._draw(record, truth, prediction, kinds, PANOPTIC_KINDS, size)
        return Row(pictures, "  ·  ".join(words), error_legend(PANOPTIC_KINDS))

    def semantic(
        self, record: dict[str, Any], prediction: np.ndarray, size: tuple[int, int]
    ) -> Row:
        """Draw predicted classes (H, W), -1 for none; see `panoptic`."""
        truth = truth_map(record, self.things, self.label_divisor) // self.label_divisor
        kinds = semantic_error_map(truth, prediction)
        words = self._confusions(truth, prediction)
        scaled = [  # as panoptic maps; -1 is none in both
            np.where(classes < 0, -1, classes * self.label_divisor)
            for classes in (truth, prediction)
        ]
        pictures = self._draw(record, scaled[0], scaled[1], kinds, SEMANTIC_KINDS, size)
        return Row(pictures, words, error_legend(SEMANTIC_KINDS))

    def _draw(
        self,
        record: dict[str, Any],
        truth: np.ndarray,
        prediction: np.ndarray,
        kinds: np.ndarray,
        names: Sequence[str],
        size: tuple[int, int],
    ) -> list[np.ndarray]:
        with Image.open(record["file_name"]) as file:
            image = file.convert("RGB")
        small = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
        # Segments are named at the size of the cell, where writing stays sharp. Errors, which may
        # be one pixel wide, are painted in full and then averaged.
        maps = [
            self.drawer.panoptic(small, _shrink(segments, size)) for segments in (truth, prediction)
        ]
        errors = Image.fromarray(draw_errors(np.asarray(image), kinds, names))
        larger = size[0] > errors.width
        how = Image.Resampling.NEAREST if larger else Image.Resampling.BOX
        return [small, *maps, np.asarray(errors.resize(size, how))]

    def _count(self, categories: Iterable[int]) -> str:
        """The classes and how often each comes, "3 car, 1 bus", the most frequent first."""
        counts = Counter(int(category) for category in categories)
        ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return ", ".join(f"{number} {self.short_names[category]}" for category, number in ordered)

    def _confusions(self, truth: np.ndarray, prediction: np.ndarray, most: int = 4) -> str:
        """How many pixels are right, and the classes that were most often taken for others."""
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
        if mistakes:
            words += f"  ·  wrong: {', '.join(mistakes)}"
        return words


def _shrink(segments: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (H, W) at `size`, (width, height), by the pixels nearest."""
    values = Image.fromarray(segments.astype(np.int32))
    return np.asarray(values.resize(size, Image.Resampling.NEAREST)).astype(np.int64)
