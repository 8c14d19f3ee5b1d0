"""Check the files of one image: the image, its labels against each other, and its record.

`core/images` raises at the first fault of a file, as training does; here all faults of all files
are noted, each in words that name its file.

Shapes: H W pixels.
"""

import hashlib
import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from PIL import Image
from scipy.ndimage import find_objects

from panoptic_dl.core.images import (
    IGNORE_LABEL,
    VOID_ID,
    colors_to_ids,
    decode_image,
    segment_numbers,
    why_unreadable,
)

ORIENTATION = 274  # tag of EXIF: how a camera was held; 1: upright
ROTATED = (5, 6, 7, 8)  # values that swap height and width
LOSSY = ("JPEG", "JPEG2000", "WEBP", "MPO", "AVIF")
USUAL = ("RGB", "L")
CONVERTED = ("RGBA", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La")
BOX_TOLERANCE = 2  # pixels: scripts disagree about the last pixel
TRAIN_IDS = "_gtFine_labelTrainIds.png"


@dataclass(frozen=True)
class _Problem:
    """What is wrong with a file, in words that name it; if not serious, a warning.

    `kind` is "images" or a key of `data.KINDS`: the check whose problem it is.
    """

    kind: str
    text: str
    serious: bool = True


@dataclass
class ImageReport:
    """What was found in the files of one image.

    Attributes:
        file_name: of the image.
        digest: of the file's bytes; two images with one digest are the same.
        mode: Pillow's name for the kind of its pixels.
        classes: pixels of each class in its semantic label, if that is a file.
    """

    file_name: str
    problems: list[_Problem] = field(default_factory=list)
    digest: bytes | None = None
    mode: str = ""
    classes: Counter[int] = field(default_factory=Counter)

    def add(self, kind: str, text: str, *, serious: bool = True) -> None:
        self.problems.append(_Problem(kind, text, serious))

    def has(self, *kinds: str) -> bool:
        """Whether there is a serious problem of one of these kinds."""
        return any(problem.serious and problem.kind in kinds for problem in self.problems)


@dataclass(frozen=True)
class ImageChecker:
    """Checks images of a dataset.

    Attributes:
        num_classes: of the dataset.
        ignore_label: of pixels without a class in semantic labels.
        is_cityscapes: whether the official label files lie next to the semantic labels.
    """

    num_classes: int
    ignore_label: int = IGNORE_LABEL
    is_cityscapes: bool = False

    def __call__(self, record: Mapping[str, Any], size: tuple[int, int] | None) -> ImageReport:
        """Open all files of an image and compare them; never raises.

        Args:
            record: of Detectron2's catalog.
            size: (H, W) in the dataset's JSON file, if it is there.
        """
        report = ImageReport(str(record.get("file_name")))
        try:
            self._check(record, size, report)
        except Exception as error:  # such as a record without keys
            report.add("images", f"{report.file_name}: {type(error).__name__}: {error}")
        return report

    def _check(
        self, record: Mapping[str, Any], size: tuple[int, int] | None, report: ImageReport
    ) -> None:
        image_size = _check_image(report)
        if size and image_size:
            _check_size(report.file_name, image_size, size, "in the JSON file", report)
        wanted, where = (size, "in the JSON file") if size else (image_size, "has its image")
        panoptic = semantic = None
        if file := record.get("pan_seg_file_name"):
            colors = _read_label(file, "labels", report)
            panoptic = None if colors is None else colors_to_ids(colors[..., :3])
            if panoptic is not None and _check_size(file, panoptic.shape, wanted, where, report):
                compare_with_segments(file, panoptic, record.get("segments_info", ()), report)
        if file := record.get("sem_seg_file_name"):
            semantic = _read_label(file, "semantic labels", report)
            if semantic is not None and _check_size(file, semantic.shape, wanted, where, report):
                self._count_classes(file, semantic, report)
        if report.has("sizes", "labels", "label ids", "semantic labels"):
            return
        if panoptic is not None and semantic is not None:
            table = {s["id"]: s["category_id"] for s in record["segments_info"]}
            numbers = segment_numbers(panoptic, list(table))
            _compare(
                record["sem_seg_file_name"],
                semantic,
                f"the segments of {record['pan_seg_file_name']} say",
                np.array([self.ignore_label, *table.values()])[numbers],
                report,
            )
        if self.is_cityscapes and semantic is not None:
            _check_cityscapes(record, semantic, panoptic, report)

    def _count_classes(self, file: str, label: np.ndarray, report: ImageReport) -> None:
        for value, count in enumerate(np.bincount(label.ravel()).tolist()):
            if count and value < self.num_classes:
                report.classes[value] = count
            elif count and value != self.ignore_label:
                report.add(
                    "semantic labels",
                    f"{file}: {count} pixels of id {value}, outside the classes "
                    f"0..{self.num_classes - 1} and not {self.ignore_label} (ignored)",
                )


def digest_of(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _decode(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, and of odd EXIF entries
        return decode_image(io.BytesIO(data))


def _check_image(report: ImageReport) -> tuple[int, int] | None:
    """(H, W) of an image as training reads it, None if it cannot be read."""
    file = report.file_name
    try:
        data = Path(file).read_bytes()
        report.digest = digest_of(data)
        image = _decode(data)
    except Exception as error:
        report.add("images", f"{file}: {why_unreadable(error)}")
        return None
    report.mode = image.mode
    if image.mode in CONVERTED:
        report.add("image modes", f"{file}: {image.mode}, converted to RGB", serious=False)
    elif image.mode not in USUAL:
        report.add("image modes", f"{file}: {image.mode}, whose values are cut off at 255 in RGB")
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF, which Detectron2 ignores as well
        turn = 1
    if turn in range(2, 9):
        report.add(
            "orientation",
            f"{file}: EXIF orientation {turn}: images are turned when read, labels are not",
            serious=False,
        )
    size = image.height, image.width
    return size[::-1] if turn in ROTATED else size


def _check_size(
    file: str,
    size: Sequence[int],
    wanted: tuple[int, int] | None,
    where: str,
    report: ImageReport,
) -> bool:
    """Whether a size is as wanted; one that an EXIF entry has turned is that entry's problem."""
    if wanted is None or tuple(size) == wanted:
        return True
    turned = any(problem.kind == "orientation" for problem in report.problems)
    report.add(
        "orientation" if turned and tuple(size) == wanted[::-1] else "sizes",
        f"{file}: {size[0]} x {size[1]} (height x width), {wanted[0]} x {wanted[1]} (height x "
        f"width) {where}",
    )
    return False


def _read_label(file: str, kind: str, report: ImageReport) -> np.ndarray | None:
    """Pixels of a panoptic (`kind` "labels") or semantic label, or None where it is none."""
    modes, wanted = {
        "labels": (("RGB", "RGBA"), "ids are R + 256 G + 256^2 B"),
        "semantic labels": (("L",), "classes are 8 bit grey (L)"),
    }[kind]
    try:
        image = _decode(Path(file).read_bytes())
    except Exception as error:
        report.add(kind, f"{file}: {why_unreadable(error)}")
        return None
    if image.format in LOSSY:
        report.add(kind, f"{file}: {image.format}, which blurs ids; labels must be PNG")
        return None
    if image.mode not in modes:
        report.add(kind, f"{file}: mode {image.mode}, but {wanted}")
        return None
    if image.mode == "RGBA":
        report.add(kind, f"{file}: RGBA; its fourth channel is not looked at", serious=False)
    return np.asarray(image)


def compare_with_segments(
    file: str, label: np.ndarray, segments: Sequence[Mapping[str, Any]], report: ImageReport
) -> None:
    """Note ids that only one of the two has, and areas and boxes that are not those of the pixels.

    Args:
        file: of the label.
        label: (H, W) ids; `VOID_ID` is of no segment.
        segments: "segments_info" of its record.
    """
    infos = {s["id"]: s for s in segments if "id" in s}
    ids = [number for number in infos if type(number) is int]
    numbers = segment_numbers(label, ids)
    unknown = label[(numbers == 0) & (label != VOID_ID)]
    for number, count in zip(*np.unique(unknown, return_counts=True), strict=True):
        report.add("label ids", f"{file}: id {number} ({count} pixels) is not in segments_info")
    counts = np.bincount(numbers.ravel(), minlength=len(ids) + 1).tolist()
    areas = dict(zip(ids, counts[1:], strict=True))
    for number in sorted(infos, key=str):
        if not areas.get(number):
            report.add("label ids", f"{file}: segment {number} of segments_info has no pixel")
    if report.has("label ids"):
        return  # areas would be wrong for the same reason
    for number, (rows, columns) in zip(ids, find_objects(numbers.astype(np.int32)), strict=True):
        info, area = infos[number], areas[number]
        if "area" in info and info["area"] != area:
            report.add(
                "areas",
                f"{file}: segment {number} has area {info['area']} in the JSON file, but {area} "
                "pixels",
            )
        sides = (columns.start, rows.start, columns.stop, rows.stop)
        if info.get("bbox") and not _is_near(info["bbox"], sides):
            box = [*sides[:2], sides[2] - sides[0], sides[3] - sides[1]]
            report.add(
                "boxes",
                f"{file}: segment {number} has bbox {info['bbox']} in the JSON file, but its "
                f"pixels {box} (left, top, width, height)",
                serious=False,
            )


def _is_near(bbox: Any, sides: tuple[int, int, int, int]) -> bool:
    try:
        left, top, width, height = (float(number) for number in bbox)
    except (TypeError, ValueError):
        return False
    return np.allclose([left, top, left + width, top + height], sides, 0, BOX_TOLERANCE)


def _compare(
    file: str, label: np.ndarray, what: str, expected: np.ndarray, report: ImageReport
) -> None:
    """Note pixels of `label`, (H, W), that differ from `expected`, (H, W)."""
    different = label != expected
    if different.any():
        y, x = np.argwhere(different)[0]
        report.add(
            "agreement",
            f"{file}: {int(different.sum())} pixels differ from what {what}, such as "
            f"{label[y, x]} in place of {expected[y, x]} at x={x}, y={y}",
        )


def _check_cityscapes(
    record: Mapping[str, Any],
    train_ids: np.ndarray,
    panoptic: np.ndarray | None,
    report: ImageReport,
) -> None:
    """Note where labelIds, labelTrainIds, instanceIds and panoptic labels disagree.

    They are all drawn from the same polygons. Pixels of instanceIds below 1000 are label ids,
    others label id * 1000 + number. A panoptic label has the same number where the label is
    evaluated, and 0 (void) elsewhere.

    Args:
        record: "sem_seg_file_name" is that of labelTrainIds; the others lie next to it.
        train_ids: (H, W) of that file.
        panoptic: (H, W) ids of "pan_seg_file_name", if there is such a label.
    """
    file = str(record["sem_seg_file_name"])
    if not file.endswith(TRAIN_IDS):
        return
    stem = file.removesuffix("labelTrainIds.png")
    others = [f"{stem}labelIds.png", f"{stem}instanceIds.png"]
    labels = []
    for name in others:
        try:
            label = np.asarray(_decode(Path(name).read_bytes()))
        except Exception as error:
            report.add("agreement", f"{name}: {why_unreadable(error)}")
            continue
        if label.shape == train_ids.shape:
            labels.append(np.clip(label, 0, 2**16 - 1).astype(np.uint16))
        else:
            shapes = f"its shape is {label.shape}, that of others {train_ids.shape}"
            report.add("agreement", f"{name}: {shapes}")
    if len(labels) < 2:
        return
    label_ids, instance_ids = labels
    ids = np.arange(2**16)
    label_of = np.where(ids < 1000, ids, ids // 1000)
    to_train, evaluated = np.full(2**16, IGNORE_LABEL), np.zeros(2**16, bool)
    for number, label in id2label.items():
        if number >= 0:
            to_train[number] = label.trainId % 256
            evaluated[number] = not label.ignoreInEval
    says = "the labelIds beside it say"
    _compare(file, train_ids, says, to_train[label_ids], report)
    _compare(others[1], label_of[instance_ids], says, label_ids, report)
    if panoptic is not None:
        expected = np.where(evaluated[label_of], ids, VOID_ID)[instance_ids]
        name = str(record["pan_seg_file_name"])
        _compare(name, panoptic, "the instanceIds say", expected, report)
