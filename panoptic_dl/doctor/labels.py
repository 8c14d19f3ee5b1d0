"""Look at one image and its labels, whatever the dataset.

Open an image or a label: every byte of it, in the colours that it is stored in.

A split of a dataset, as Detectron2's catalogs know it.

What was found in the files of one image.

Look at many images in several processes, with bounded memory.

A panoptic label against `segments_info` of its JSON file.

The label files of Cityscapes against each other: they are all drawn from the same polygons.

Pixels of an instanceIds file below 1000 are label ids, others label id * 1000 + number. A panoptic
label has the same number where the label is evaluated, and 0 (void) elsewhere.

The segments of a label, without sorting its pixels.

Shapes: H W pixels; N runs, pieces of rows with one value; K values.

Where two labels that should be one differ.
"""

import hashlib
import io
import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import (
    IGNORE_LABEL,
    VOID_ID,
    colors_to_ids,
    decode_image,
    why_unreadable,
)
from panoptic_dl.core.parallel import Progress, parallel_map

# By the row of the table that a problem stands in.
Kind = Literal[
    "images",
    "image modes",
    "orientation",
    "sizes",
    "labels",
    "label ids",
    "areas",
    "boxes",
    "semantic labels",
    "agreement",
]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a file, in words that name it.

    `serious` problems make a row red, others yellow.
    """

    kind: Kind
    text: str
    serious: bool = True


@dataclass
class ImageReport:
    """Of one image and its labels.

    Attributes:
        file_name: of the image.
        problems: all that is wrong.
        digest: of the file's bytes; two images with one digest are the same.
        mode: Pillow's name for the kind of its pixels.
        classes: pixels of each class in its semantic label, if that is a file.
    """

    file_name: str
    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None
    mode: str = ""
    classes: Counter[int] = field(default_factory=Counter)

    def add(self, kind: Kind, text: str, *, serious: bool = True) -> None:
        self.problems.append(Problem(kind, text, serious))

    def has(self, *kinds: Kind) -> bool:
        """Whether there is a serious problem of one of these kinds."""
        return any(problem.serious and problem.kind in kinds for problem in self.problems)


ORIENTATION = 274  # tag of EXIF: how a camera was held; 1: upright
ROTATED = (5, 6, 7, 8)  # values that swap height and width
LOSSY = ("JPEG", "JPEG2000", "WEBP", "MPO", "AVIF")
USUAL = ("RGB", "L")
CONVERTED = ("RGBA", "LA", "P", "PA", "1", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa", "La")


def open_whole(file: str, *, keep_digest: ImageReport | None = None) -> Image.Image:
    """Read and decode a file, once.

    Args:
        keep_digest: gets the digest of the file's bytes.

    Raises:
        OSError, SyntaxError, ValueError: it is missing, truncated or no image; or others of
            Pillow's many ways to say so.
    """
    data = Path(file).read_bytes()
    if keep_digest is not None:
        keep_digest.digest = digest_of(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, and of odd EXIF entries
        return decode_image(io.BytesIO(data))


def digest_of(data: bytes) -> bytes:
    """The same for the same bytes, and, as good as certainly, for these alone."""
    return hashlib.blake2b(data, digest_size=16).digest()


def look_at_image(file: str, report: ImageReport) -> tuple[int, int] | None:
    """Note what is wrong with an image; return (H, W) as training sees it, None if unreadable."""
    try:
        image = open_whole(file, keep_digest=report)
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
    except Exception:  # damaged EXIF, which Detectron2 does not mind either
        turn = 1
    if turn in range(2, 9):
        report.add(
            "orientation",
            f"{file}: EXIF orientation {turn}: images are turned when read, labels are not",
            serious=False,
        )
    height, width = image.height, image.width
    return (width, height) if turn in ROTATED else (height, width)


Box = tuple[int, int, int, int]  # left, top, width, height in pixels


class Segments:
    """The values of a label, (H, W) integers: a label has few runs, which are quickly sorted.

    Attributes:
        values: (K,) that occur, ascending.
    """

    def __init__(self, label: np.ndarray) -> None:
        self._shape = height, width = label.shape
        begins = np.ones((height, width), dtype=bool)  # of a run; each row begins one
        np.not_equal(label[:, 1:], label[:, :-1], out=begins[:, 1:])
        self._starts = np.flatnonzero(begins)
        self._lengths = np.diff(self._starts, append=label.size)
        self.values, self._of_run = np.unique(label.ravel()[self._starts], return_inverse=True)

    def areas(self) -> dict[int, int]:
        """Pixels of each value."""
        counts = np.bincount(self._of_run, weights=self._lengths, minlength=len(self.values))
        return {int(v): int(c) for v, c in zip(self.values, counts, strict=True)}

    def boxes(self) -> dict[int, Box]:
        """The smallest box around each value."""
        rows, first = np.divmod(self._starts, self._shape[1])
        last = first + self._lengths - 1
        left, top = (np.full(len(self.values), max(self._shape)) for _ in range(2))
        right, bottom = (np.full(len(self.values), -1) for _ in range(2))
        np.minimum.at(left, self._of_run, first)
        np.minimum.at(top, self._of_run, rows)
        np.maximum.at(right, self._of_run, last)
        np.maximum.at(bottom, self._of_run, rows)
        sides = np.stack((left, top, right - left + 1, bottom - top + 1), axis=1).tolist()
        return {int(v): tuple(side) for v, side in zip(self.values, sides, strict=True)}

    def replaced(self, new: dict[int, int], default: int) -> np.ndarray:
        """(H, W) int64 with `new[value]`, or `default` where that has none, for each value."""
        table = np.array([new.get(int(v), default) for v in self.values], dtype=np.int64)
        return np.repeat(table[self._of_run], self._lengths).reshape(self._shape)


NEAR = 2  # pixels that a side of a box may be off: scripts disagree about the last pixel


def compare_with_segments(
    file: str, segments: Segments, record: dict[str, Any], report: ImageReport
) -> None:
    """Note ids that only one of the two has, and areas and boxes that are not those of the pixels.

    Args:
        file: of the label.
        segments: of the label.
        record: "segments_info" is read.
    """
    areas = segments.areas()
    infos = {s["id"]: s for s in record.get("segments_info", ()) if "id" in s}
    for number in sorted(set(areas) - set(infos) - {VOID_ID}):
        report.add(
            "label ids", f"{file}: id {number} ({areas[number]} pixels) is not in segments_info"
        )
    for number in sorted(set(infos) - set(areas), key=str):
        report.add("label ids", f"{file}: segment {number} of segments_info has no pixel")
    if report.has("label ids"):
        return  # areas would say the same again
    boxes = segments.boxes()
    for number, info in infos.items():
        if "area" in info and info["area"] != areas[number]:
            report.add(
                "areas",
                f"{file}: segment {number} has area {info['area']} in the JSON file, but "
                f"{areas[number]} pixels",
            )
        if info.get("bbox") and not _near(info["bbox"], boxes[number]):
            report.add(
                "boxes",
                f"{file}: segment {number} has bbox {info['bbox']} in the JSON file, but its "
                f"pixels {list(boxes[number])} (left, top, width, height)",
                serious=False,
            )


def _near(listed: Any, box: Box) -> bool:
    """Whether all four sides are as they should be, give or take a few pixels."""
    try:
        left, top, width, height = (float(number) for number in listed)
    except (TypeError, ValueError):
        return False
    sides = (left, top, left + width, top + height)
    own = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return all(abs(a - b) <= NEAR for a, b in zip(sides, own, strict=True))


def add_difference(
    file: str, label: np.ndarray, what: str, expected: np.ndarray, report: ImageReport
) -> None:
    """Note pixels of `label`, (H, W), that are not as `what` has them, (H, W) as well."""
    different = label != expected
    if different.any():
        y, x = np.argwhere(different)[0]
        report.add(
            "agreement",
            f"{file}: {int(different.sum())} pixels differ from what {what}, such as "
            f"{label[y, x]} in place of {expected[y, x]} at x={x}, y={y}",
        )


TRAIN_IDS = "_gtFine_labelTrainIds.png"
LABEL_IDS = "_gtFine_labelIds.png"
INSTANCE_IDS = "_gtFine_instanceIds.png"


def look_at_cityscapes(
    record: dict[str, Any],
    train_ids: np.ndarray,
    panoptic: np.ndarray | None,
    report: ImageReport,
) -> None:
    """Note where labelIds, labelTrainIds, instanceIds and panoptic labels disagree.

    Args:
        record: "sem_seg_file_name" is that of labelTrainIds; the others lie beside it.
        train_ids: (H, W) of that file.
        panoptic: (H, W) ids of "pan_seg_file_name", if there is such a label.
    """
    file = str(record["sem_seg_file_name"])
    if not file.endswith(TRAIN_IDS):
        return
    found = {}
    for suffix in (LABEL_IDS, INSTANCE_IDS):
        found[suffix] = _read(file.removesuffix(TRAIN_IDS) + suffix, train_ids.shape, report)
    label_ids, instance_ids = found.values()
    if label_ids is None or instance_ids is None:
        return
    to_train = {label: entry.trainId % 256 for label, entry in id2label.items() if label >= 0}
    expected = Segments(label_ids).replaced(to_train, IGNORE_LABEL)
    add_difference(file, train_ids, "the labelIds beside it say", expected, report)
    instances = Segments(instance_ids)
    numbers = [int(value) for value in instances.values]
    label_of = {number: number if number < 1000 else number // 1000 for number in numbers}
    add_difference(
        file.removesuffix(TRAIN_IDS) + INSTANCE_IDS,
        instances.replaced(label_of, -1),
        "the labelIds beside it say",
        label_ids,
        report,
    )
    if panoptic is None:
        return
    evaluated = {
        number: number
        for number, label in label_of.items()
        if label in id2label and not id2label[label].ignoreInEval
    }
    name = str(record["pan_seg_file_name"])
    add_difference(name, panoptic, "the instanceIds say", instances.replaced(evaluated, 0), report)


def _read(file: str, shape: tuple[int, ...], report: ImageReport) -> np.ndarray | None:
    try:
        label = np.asarray(open_whole(file))
    except Exception as error:
        report.add("agreement", f"{file}: {why_unreadable(error)}")
        return None
    if label.shape != shape:
        report.add("agreement", f"{file}: its shape is {label.shape}, that of others {shape}")
        return None
    return label.astype(np.int64)


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
        report.add("labels", f"{file}: {why_unreadable(error)}")
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
        report.add("semantic labels", f"{file}: {why_unreadable(error)}")
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


@dataclass
class Split:
    """Records and metadata of a dataset, by its name.

    Attributes:
        title: "train" or "val".
        name: in Detectron2's catalogs.
        reports: of the images that were opened.
    """

    title: str
    name: str
    reports: list[ImageReport] = field(default_factory=list)

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """Detectron2's records; categories of segments are contiguous ids."""
        records: list[dict[str, Any]] = DatasetCatalog.get(self.name)
        if not records:
            raise DatasetError(f"dataset {self.name} has no images")
        return records

    @cached_property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = MetadataCatalog.get(self.name).as_dict()
        return found

    @property
    def panoptic_json(self) -> str | None:
        """The file of all segments, if the dataset has one."""
        return self.metadata.get("panoptic_json")

    @cached_property
    def content(self) -> dict[str, Any]:
        """What is in `panoptic_json`; its categories are ids of the dataset."""
        content = json.loads(Path(str(self.panoptic_json)).read_bytes())
        kinds = ("images", "annotations", "categories")
        missing = [kind for kind in kinds if not isinstance(content.get(kind), list)]
        if missing:
            raise DatasetError(f"{self.panoptic_json} has no list of {', '.join(missing)}")
        found: dict[str, Any] = content
        return found

    @cached_property
    def listed_sizes(self) -> dict[Any, tuple[int, int]]:
        """(height, width) of images in `panoptic_json`, by id."""
        if self.panoptic_json is None:
            return {}
        return {
            image["id"]: (image["height"], image["width"])
            for image in self.content["images"]
            if {"id", "height", "width"} <= image.keys()
        }

    @property
    def class_names(self) -> list[str]:
        """By contiguous id."""
        return list(self.metadata.get("stuff_classes", ()))

    @property
    def ignore_label(self) -> int:
        return int(self.metadata.get("ignore_label", IGNORE_LABEL))

    @property
    def contiguous(self) -> dict[int, int]:
        """From the dataset's category ids to classes; {} where labels hold classes already."""
        stuff = self.metadata.get("stuff_dataset_id_to_contiguous_id") or {}
        return {**stuff, **(self.metadata.get("thing_dataset_id_to_contiguous_id") or {})}

    @property
    def is_cityscapes(self) -> bool:
        """Whether its labels are those of the official scripts, with the official ids."""
        kind = str(self.metadata.get("evaluator_type", ""))
        return kind.startswith("cityscapes") and len(self.class_names) == 19


CHUNK = 8  # images that a process is given at a time


def scan(
    split: Split, *, sample: int | None, workers: int, tick: Callable[[], None]
) -> list[ImageReport]:
    """Look at the images of a split, in its order.

    Args:
        sample: so many, always the same ones; None: all.
        workers: processes; 1 works in this one.
        tick: is called now and then.

    Raises:
        DatasetError: a process was killed.
    """
    records = split.records
    chosen: Sequence[int] = range(len(records))
    if sample is not None and sample < len(records):
        chosen = sorted(random.Random(0).sample(chosen, sample))
    sizes, cityscapes = split.listed_sizes, split.is_cityscapes
    num_classes, ignored = len(split.class_names), split.ignore_label
    questions = [
        Question(
            record=records[index],
            size=sizes.get(records[index].get("image_id")),
            num_classes=num_classes,
            ignore_label=ignored,
            is_cityscapes=cityscapes,
        )
        for index in chosen
    ]
    portions = [(questions[i : i + CHUNK],) for i in range(0, len(questions), CHUNK)]
    # Forked, and before any GPU is used: a new interpreter takes seconds to import everything.
    answers = parallel_map(
        _look_at_all, portions, workers, hint="\nremedy: fewer of them, doctor.workers=1"
    )
    reports = []
    with Progress(f"{split.title}: looked at", len(chosen)) as progress, closing(answers):
        for part in answers:
            reports += part
            progress.add(len(part))
            tick()
    return reports


def _look_at_all(questions: list[Question]) -> list[ImageReport]:
    return [look_at(question) for question in questions]
