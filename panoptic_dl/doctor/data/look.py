"""Look at one image and its labels, whatever the dataset."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_dl.data.segment_numbers import colors_to_ids

from .cityscapes_labels import look_at_cityscapes
from .difference import add_difference
from .opening import LOSSY, look_at_image, open_whole, why_not
from .panoptic_label import compare_with_segments
from .report import ImageReport
from .segments import Segments


@dataclass(frozen=True)
class Question:
    """What is to be looked at, and what is known of it.

    Attributes:
        record: of Detectron2's catalog.
        size: (H, W) that the dataset's JSON file says, if it does.
        num_classes: of the dataset.
        ignore_label: of pixels without a class in semantic labels.
        is_cityscapes: whether the official label files lie beside the semantic label.
    """

    record: dict[str, Any]
    size: tuple[int, int] | None
    num_classes: int
    ignore_label: int
    is_cityscapes: bool


def look_at(question: Question) -> ImageReport:
    """Open all files of an image, compare them with each other and with the record; never raise."""
    record = question.record
    report = ImageReport(str(record.get("file_name")))
    try:
        _look(question, report)
    except Exception as error:  # of a kind that nobody foresaw: it belongs to this image
        report.add("images", f"{report.file_name}: {type(error).__name__}: {error}")
    return report


def _look(question: Question, report: ImageReport) -> None:
    record = question.record
    size = look_at_image(report.file_name, report)
    if size and question.size and size != question.size:
        _add_sizes(report.file_name, size, question.size, "in the JSON file", report)
    panoptic = semantic = None
    if file := record.get("pan_seg_file_name"):
        panoptic = _panoptic(str(file), report)
        if panoptic is not None and _fits(str(file), panoptic, size, question, report):
            compare_with_segments(str(file), Segments(panoptic), record, report)
    if file := record.get("sem_seg_file_name"):
        semantic = _semantic(str(file), report)
        if semantic is not None and _fits(str(file), semantic, size, question, report):
            _classes(str(file), semantic, question, report)
    if report.has("sizes", "labels", "label ids", "semantic labels"):
        return
    if panoptic is not None and semantic is not None:
        _agree(panoptic, semantic, question, report)
    if question.is_cityscapes and semantic is not None:
        look_at_cityscapes(record, semantic, panoptic, report)


def _panoptic(file: str, report: ImageReport) -> np.ndarray | None:
    """(H, W) ids of a panoptic label, or None where it is none."""
    try:
        image = open_whole(file)
    except Exception as error:
        report.add("labels", f"{file}: {why_not(error)}")
        return None
    if image.format in LOSSY:
        report.add("labels", f"{file}: {image.format}, which blurs ids; labels must be PNG")
        return None
    if image.mode not in ("RGB", "RGBA"):
        report.add("labels", f"{file}: mode {image.mode}, but ids are R + 256 G + 256^2 B")
        return None
    if image.mode == "RGBA":
        report.add("labels", f"{file}: RGBA; its fourth channel is not looked at", serious=False)
    return colors_to_ids(np.asarray(image)[..., :3]).astype(np.int64)


def _semantic(file: str, report: ImageReport) -> np.ndarray | None:
    """(H, W) classes of a semantic label, or None where it is none."""
    try:
        image = open_whole(file)
    except Exception as error:
        report.add("semantic labels", f"{file}: {why_not(error)}")
        return None
    if image.format in LOSSY:
        report.add("semantic labels", f"{file}: {image.format}, which blurs ids; PNG is needed")
        return None
    if image.mode != "L":
        report.add("semantic labels", f"{file}: mode {image.mode}, but classes are 8 bit grey (L)")
        return None
    return np.asarray(image)


def _fits(
    file: str,
    label: np.ndarray,
    image_size: tuple[int, int] | None,
    question: Question,
    report: ImageReport,
) -> bool:
    """Whether a label has the size of the JSON file, else of the image; note it if not."""
    for wanted, where in ((question.size, "in the JSON file"), (image_size, "has its image")):
        if wanted is not None:
            if label.shape != wanted:
                _add_sizes(file, label.shape, wanted, where, report)
            return label.shape == wanted
    return True


def _add_sizes(
    file: str, size: tuple[int, ...], wanted: tuple[int, int], where: str, report: ImageReport
) -> None:
    """Note a size; one that an EXIF entry has turned belongs to that entry's row."""
    turned = any(problem.kind == "orientation" for problem in report.problems)
    report.add(
        "orientation" if turned and size == wanted[::-1] else "sizes",
        f"{file}: {_words(size)}, {_words(wanted)} {where}",
    )


def _classes(file: str, label: np.ndarray, question: Question, report: ImageReport) -> None:
    counts = np.bincount(label.ravel(), minlength=256)
    known = {question.ignore_label, *range(question.num_classes)}
    strangers = [int(value) for value in np.flatnonzero(counts) if int(value) not in known]
    for value in strangers:
        report.add(
            "semantic labels",
            f"{file}: {counts[value]} pixels of id {value}, outside the classes "
            f"0..{question.num_classes - 1} and not {question.ignore_label} (ignored)",
        )
    report.classes.update(
        {int(v): int(counts[v]) for v in np.flatnonzero(counts[: question.num_classes])}
    )


def _agree(
    panoptic: np.ndarray, semantic: np.ndarray, question: Question, report: ImageReport
) -> None:
    """Hold the classes of the panoptic label's segments against the semantic label."""
    record = question.record
    classes = {s["id"]: s["category_id"] for s in record["segments_info"]}
    derived = Segments(panoptic).replaced(classes, question.ignore_label)
    add_difference(
        str(record["sem_seg_file_name"]),
        semantic,
        f"the segments of {record['pan_seg_file_name']} say",
        derived,
        report,
    )


def _words(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
