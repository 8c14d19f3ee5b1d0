"""Check the files of one image: the image, its labels against each other, and its record.

`core/images` raises at the first fault of a file, as training does; here all faults of all files
are noted, each in words that name its file.

Shapes: H W pixels.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from cityscapesscripts.helpers.labels import id2label

from panoptic_dl.core.archives import read_file
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import (
    IGNORE_LABEL,
    VOID_ID,
    SemanticLabelReader,
    open_image,
    orientation,
    read_classes,
    read_label_ids,
    read_panoptic_ids,
    read_size,
    require_listed_size,
    require_same_size,
    segment_numbers,
)

OF_SEGMENTS = ("label ids", "areas")  # kinds that need the pixels of segments
TRAIN_IDS = "_gtFine_labelTrainIds.png"

Found = TypeVar("Found")


class _Problem(NamedTuple):
    """What is wrong with a file, in words that name it; if not serious, a warning.

    `kind` is a key of `data.KINDS`; `origin` says what the wrong file is, where KINDS is not right.
    """

    kind: str
    text: str
    serious: bool
    origin: str | None = None


@dataclass
class ImageReport:
    """What was found in the files of one image."""

    file_name: str
    problems: list[_Problem] = field(default_factory=list)
    digest: bytes | None = None  # of the file's bytes; two images with one are the same
    mode: str = ""  # Pillow's name for the kind of its pixels
    unchecked: dict[str, str] = field(default_factory=dict)  # kind of problem, and the kind why
    classes: Counter[int] = field(default_factory=Counter)  # pixels of each in the semantic label

    def add(self, kind: str, text: str, *, serious: bool = True, origin: str | None = None) -> None:
        self.problems.append(_Problem(kind, text, serious, origin))

    def skip(self, why: str, *kinds: str) -> None:
        """Note that kinds of problems are not looked for, because there is one of kind `why`."""
        for kind in kinds:
            self.unchecked.setdefault(kind, why)

    def has(self, *kinds: str) -> bool:
        """Whether there is a serious problem of one of these kinds."""
        return any(problem.serious and problem.kind in kinds for problem in self.problems)


def check_files(
    record: Mapping[str, Any], size: tuple[int, int] | None, **of_split: Any
) -> ImageReport:
    """Open all files of an image, a record of Detectron2's catalog, and compare them; never raises.

    `size` is (H, W) in the dataset's JSON file. `of_split`: `num_classes`, `ignore_label` of pixels
    without a class, and `is_cityscapes`: its label files lie next to the semantic labels.
    """
    report = ImageReport(str(record.get("file_name")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, and of odd EXIF entries
        try:
            _check_files(report, record, size, **of_split)
        except Exception as error:  # such as a record without keys
            report.add("images", f"{report.file_name}: {type(error).__name__}: {error}")
    return report


def _check_files(
    report: ImageReport,
    record: Mapping[str, Any],
    listed: tuple[int, int] | None,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    is_cityscapes: bool = False,
) -> None:
    image = _noting(report, "images", partial(_check_image, report))
    if image is None:
        report.skip("images", "image modes", "orientation", "sizes")
    elif listed:
        entry = {"file_name": report.file_name, "height": listed[0], "width": listed[1]}
        _noting(report, "sizes", partial(require_listed_size, entry, image), "images")

    def fits(file: str, label: np.ndarray) -> bool:
        if label.shape in (image, listed):
            return True
        size = image or listed or label.shape
        check = partial(require_same_size, label.shape, file, size, report.file_name)
        _noting(report, "sizes", check, _origin_of(record, image, label.shape))
        return label.shape == size

    panoptic = semantic = None
    if panoptic_file := record.get("pan_seg_file_name"):
        panoptic = _noting(report, "labels", partial(read_panoptic_ids, panoptic_file))
        if panoptic is None:
            report.skip("labels", "sizes", *OF_SEGMENTS, "agreement")
        elif not fits(panoptic_file, panoptic):
            report.skip("sizes", *OF_SEGMENTS, "agreement")
        else:
            _compare_with_segments(report, panoptic, record)
            if report.has("label ids"):
                report.skip("label ids", *OF_SEGMENTS, "agreement")
    if semantic_file := record.get("sem_seg_file_name"):
        semantic = _noting(report, "semantic labels", partial(read_classes, semantic_file))
        if semantic is None:
            report.skip("semantic labels", "sizes", "agreement")
        elif not fits(semantic_file, semantic):
            report.skip("sizes", "semantic labels", "agreement")
        else:
            counts = np.bincount(semantic.ravel(), minlength=num_classes)[:num_classes]
            report.classes.update(dict(enumerate(counts.tolist())))
            reader = SemanticLabelReader(num_classes, ignore_label)
            _noting(
                report,
                "semantic labels",
                partial(reader.check_semantic, semantic, semantic_file),
            )
            if report.has("semantic labels"):
                report.skip("semantic labels", "agreement")
    if semantic is None or "agreement" in report.unchecked:
        return
    if panoptic is not None:
        table = {s["id"]: s["category_id"] for s in record["segments_info"]}
        expected = np.array([ignore_label, *table.values()])
        expected = expected[segment_numbers(panoptic, list(table))]
        source = f"segments of {panoptic_file}"
        _compare(report, str(semantic_file), semantic, source, expected)
    if is_cityscapes:
        _check_cityscapes(report, record, semantic, panoptic)


def _origin_of(
    record: Mapping[str, Any], image: tuple[int, int] | None, label: Sequence[int]
) -> str | None:
    """What is wrong where an image of Cityscapes and a prepared label differ in size (H, W).

    The downloaded label decides: it is as large as the image ("prepared"), or as that label.
    """
    file = str(record.get("sem_seg_file_name", ""))
    if not file.endswith(TRAIN_IDS):
        return None
    try:
        downloaded = read_size(file.replace(TRAIN_IDS, "_gtFine_labelIds.png"))
    except DatasetError:
        return None
    return {image: "prepared", tuple(label): "images"}.get(downloaded, "labels")


def digest_of(data: bytes) -> bytes:
    """A hash of 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _noting(
    report: ImageReport, kind: str, call: Callable[[], Found], origin: str | None = None
) -> Found | None:
    """What a call returns, or None and a problem of that kind, in the words of training."""
    try:
        return call()
    except DatasetError as error:
        turned = kind == "sizes" and "EXIF" in str(error)
        report.add("orientation" if turned else kind, str(error), origin=origin)
        return None


def _check_image(report: ImageReport) -> tuple[int, int]:
    """(H, W) of an image as training reads it."""
    file = report.file_name
    size, image = read_size(file), open_image(file)
    report.digest, report.mode = digest_of(read_file(file)), image.mode
    _noting(report, "image modes", partial(read_size, file, "image"))
    turn = orientation(image)
    if turn > 1:
        text = (
            f"{file}: EXIF orientation {turn}: it is turned when read; its label must be stored "
            "turned, or have the same orientation"
        )
        report.add("orientation", text, serious=False)
    return size


def _compare_with_segments(
    report: ImageReport, label: np.ndarray, record: Mapping[str, Any]
) -> None:
    """Note ids that a label (H, W) or segments_info lacks, and areas that are wrong."""
    file, infos = record["pan_seg_file_name"], record.get("segments_info", ())
    infos = {info["id"]: info for info in infos if "id" in info}
    ids = [number for number in infos if type(number) is int]
    numbers = segment_numbers(label, ids)
    unknown = label[(numbers == 0) & (label != VOID_ID)]
    for number, count in zip(*np.unique(unknown, return_counts=True), strict=True):
        report.add("label ids", f"{file}: id {number} ({count} pixels) is not in segments_info")
    areas = dict(zip(ids, np.bincount(numbers.ravel(), minlength=len(ids) + 1)[1:], strict=True))
    for number in sorted(infos, key=str):
        if not areas.get(number):
            report.add("label ids", f"{file}: segment {number} of segments_info has no pixel")
    if report.has("label ids"):
        return  # areas would be wrong for the same reason
    for number, area in areas.items():
        listed = infos[number].get("area", area)
        if listed != area:
            text = f"{file}: segment {number} has area {listed} in the JSON file, but {area} pixels"
            report.add("areas", text)


def _compare(
    report: ImageReport, file: str, label: np.ndarray, source: str, expected: np.ndarray
) -> None:
    """Note pixels of a label (H, W) that are not those expected (H, W) from a source."""
    different = label != expected
    if different.any():
        y, x = np.argwhere(different)[0]
        report.add(
            "agreement",
            f"{file}: {int(different.sum())} pixels differ from the {source}, such as "
            f"{label[y, x]} in place of {expected[y, x]} at x={x}, y={y}",
        )


def _check_cityscapes(
    report: ImageReport,
    record: Mapping[str, Any],
    train_ids: np.ndarray,
    panoptic: np.ndarray | None,
) -> None:
    """Note where labelIds, labelTrainIds, instanceIds and panoptic labels (H, W) disagree.

    Pixels of instanceIds below 1000 are label ids, others label id * 1000 + number. A panoptic
    label has the same number where the label is evaluated, and 0 (void) elsewhere.
    """
    file = str(record["sem_seg_file_name"])
    if not file.endswith(TRAIN_IDS):
        return
    labels = {}
    for kind in ("labelIds", "instanceIds"):
        name = file.replace(TRAIN_IDS, f"_gtFine_{kind}.png")
        label = _noting(report, "agreement", partial(read_label_ids, name))
        if label is not None and label.shape == train_ids.shape:
            labels[name] = np.clip(label, 0, 2**16 - 1).astype(np.uint16)
        elif label is not None:
            shapes = f"its shape is {label.shape}, that of others {train_ids.shape}"
            report.add("sizes", f"{name}: {shapes}", origin="labels")
            report.skip("sizes", "agreement")
    if len(labels) < 2:
        return
    (_, label_ids), (instance_file, instance_ids) = labels.items()
    ids = np.arange(2**16)
    label_of = np.where(ids < 1000, ids, ids // 1000)
    to_train, evaluated = np.full(2**16, IGNORE_LABEL), np.zeros(2**16, bool)
    for number, entry in id2label.items():
        if number >= 0:
            to_train[number] = entry.trainId % 256
            evaluated[number] = not entry.ignoreInEval
    source = "labelIds next to it"
    _compare(report, file, train_ids, source, to_train[label_ids])
    _compare(report, instance_file, label_of[instance_ids], source, label_ids)
    if panoptic is not None:
        expected = np.where(evaluated[label_of], ids, VOID_ID)[instance_ids]
        _compare(report, str(record["pan_seg_file_name"]), panoptic, "instanceIds", expected)
