"""Whole pictures or none: Pillow can be told, for all the program, to fill torn ones with grey.

Read images and labels; name the file when something is wrong with it.

Shapes: H W pixels.

Which segment each pixel of a panoptic label belongs to, without sorting pixels.

A look-up table over all 2^24 ids (32 MB) costs a few milliseconds for 1024 x 2048 pixels;
`numpy.unique` takes a hundred. Each thread has its own, empty between two calls.

Read labels, once an image; a file that cannot be read is named.

Each thread remembers the last label that it read, for evaluators that follow each other.

Shapes: H W pixels.

Which file it was: the official scripts raise what Pillow raises, which names none.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from detectron2.data import detection_utils
from numpy.typing import NDArray
from PIL import Image, ImageFile

from panoptic_dl.core.errors import DatasetError, EvaluationError

PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum


def is_whole_png(file: Path) -> bool:
    """Whether a file ends as PNGs do; a torn one, or none at all, does not."""
    try:
        with file.open("rb") as opened:
            opened.seek(-len(PNG_END), os.SEEK_END)
            return opened.read() == PNG_END
    except OSError:  # not there, or shorter than that
        return False


_lock = threading.Lock()
_inside = 0  # threads that read just now
_before = False  # what the flag was when the first of them came


@contextmanager
def no_truncated_images() -> Iterator[None]:
    """Let Pillow raise OSError on a torn picture, whatever LOAD_TRUNCATED_IMAGES says outside.

    Threads may be inside at the same time: the first sets the flag, the last puts it back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = _before


NUM_IDS = 256**3  # ids that three bytes hold

_of_thread = threading.local()


def segment_numbers(ids: NDArray[np.integer], segment_ids: Sequence[int]) -> NDArray[np.uint16]:
    """(H, W): 1 + position of the pixel's id in `segment_ids`, 0 where it is none of them.

    Args:
        ids: (H, W), 0..2^24-1.
        segment_ids: no two the same. One that no pixel can have does no harm.

    Raises:
        ValueError: an id comes twice, or there are more than 65,535.
    """
    if len(set(segment_ids)) != len(segment_ids):
        twice = next(i for n, i in enumerate(segment_ids) if i in segment_ids[:n])
        raise ValueError(f"two segments have the id {twice}")
    if len(segment_ids) >= 2**16:
        raise ValueError(f"{len(segment_ids)} segments in an image; 65535 are the most")
    table = getattr(_of_thread, "table", None)
    if table is None:
        table = _of_thread.table = np.zeros(NUM_IDS, np.uint16)
    # Entries of no segment stay 0: filling the table each time is not free.
    keys, numbers = np.asarray(segment_ids, np.int64), np.arange(1, len(segment_ids) + 1)
    possible = (keys >= 0) & (keys < NUM_IDS)
    keys = keys[possible]
    table[keys] = numbers[possible]
    try:
        found: NDArray[np.uint16] = table[ids]
    finally:
        table[keys] = 0
    return found


def colors_to_ids(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The ids, R + 256 G + 256^2 B, of colours (H, W, 3): `panopticapi.utils.rgb2id`, faster."""
    if not colors.size:  # which OpenCV refuses
        return np.zeros(colors.shape[:2], np.uint32)
    four_bytes = cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2RGBA)
    ids: NDArray[np.uint32] = four_bytes.view("<u4")[:, :, 0]
    ids &= 0xFFFFFF
    return ids


def ids_to_colors(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The colours (H, W, 3) of ids (H, W): `panopticapi.utils.id2rgb`, faster."""
    four_bytes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return four_bytes.reshape(*ids.shape, 4)[:, :, :3].copy()


class Shaped(Protocol):
    """An array, or what will be one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


VOID = 0  # id of unlabelled pixels in a panoptic PNG


def read_image(file: str, image_format: str) -> np.ndarray:
    """Read a whole image as Detectron2 does: (H, W, channels) uint8, channels as `image_format`.

    Raises:
        DatasetError: the file is missing, truncated or no image, or has more than 8 bits. A global
            `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`, which fills the rest with grey, is not obeyed.
    """
    try:
        with no_truncated_images():
            _require_8_bits(file)
            return detection_utils.read_image(file, format=image_format)
    except DatasetError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        reason = (
            "missing" if isinstance(error, FileNotFoundError) else f"truncated or damaged: {error}"
        )
        raise DatasetError(
            f"cannot read {file} ({reason}); fetch or prepare this file again"
        ) from error


def _require_8_bits(file: str) -> None:
    """Refuse grey images of more bits, whose values above 255 Pillow would cut off."""
    with Image.open(file) as image:
        if image.mode[0] in "IF":
            raise DatasetError(
                f"{file} has more than 8 bits a pixel (mode {image.mode}): write it anew with 8, "
                "scaled as suits it"
            )


def check_size(label: Shaped, label_file: str, image: Shaped, image_file: str) -> None:
    """Raise `DatasetError` unless a label has the height and width of its image."""
    if label.shape[:2] != image.shape[:2]:
        raise DatasetError(
            f"sizes differ: {label_file} is {label.shape[1]} x {label.shape[0]}, "
            f"{image_file} is {image.shape[1]} x {image.shape[0]} (width x height)"
        )


class PanopticLabels:
    """Check panoptic labels, and turn them into semantic ones."""

    def __init__(self, num_classes: int, ignore_label: int = 255) -> None:
        if not 0 < num_classes <= 255 or not 0 <= ignore_label <= 255:
            raise ValueError(f"labels are 8 bit: {num_classes=}, {ignore_label=} do not fit")
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    def check(self, panoptic: np.ndarray, record: Mapping[str, Any]) -> None:
        """Raise `DatasetError` unless `panoptic`, (H, W) ids or (H, W, 3) colours, fits the record.

        Its pixels must be void or belong to a segment of `record["segments_info"]`, whose
        categories lie in 0..num_classes-1.
        """
        file = record["pan_seg_file_name"]
        for segment in record["segments_info"]:
            if not 0 <= segment["category_id"] < self.num_classes:
                raise DatasetError(
                    f"{file}: segment {segment['id']} has category {segment['category_id']}, "
                    f"outside the classes 0..{self.num_classes - 1} "
                    f"(dataset.num_classes={self.num_classes})"
                )
        ids = colors_to_ids(panoptic) if panoptic.ndim == 3 else panoptic
        unknown = self._numbers(ids, record) == 0
        unknown &= ids != VOID
        if unknown.any():
            strangers = np.unique(ids[unknown]).tolist()
            raise DatasetError(
                f"{file}: id {strangers[0]} is in the PNG ({int(unknown.sum())} pixels of "
                f"{len(strangers)} such ids) but not in segments_info of the JSON file; the two "
                "do not belong together: fetch or prepare them again. In PNGs of your own a colour "
                "is id % 256, id // 256 % 256, id // 65536, and is never blended by resizing"
            )

    def to_semantic(self, panoptic: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
        """Classes of the pixels of `panoptic`, (H, W) ids or (H, W, 3) colours: (H, W) uint8."""
        ids = colors_to_ids(panoptic) if panoptic.ndim == 3 else panoptic
        categories = [segment["category_id"] for segment in record["segments_info"]]
        table = np.array([self.ignore_label, *categories], dtype=np.uint8)
        classes: np.ndarray = table[self._numbers(ids, record)]
        return classes

    def _numbers(self, ids: np.ndarray, record: Mapping[str, Any]) -> np.ndarray:
        try:
            return segment_numbers(ids, [segment["id"] for segment in record["segments_info"]])
        except ValueError as error:
            file = record["pan_seg_file_name"]
            raise DatasetError(f"{file}: {error} in segments_info of the JSON file") from error


def check_semantic(label: np.ndarray, file: str, num_classes: int, ignore_label: int) -> None:
    """Raise `DatasetError` if a pixel of `label`, (H, W) uint8, is no class and not ignored."""
    counts = np.bincount(label.ravel(), minlength=256)
    counts[ignore_label] = 0
    strangers = np.flatnonzero(counts[num_classes:]) + num_classes
    if len(strangers):
        raise DatasetError(
            f"{file}: label id {strangers[0]} ({counts[strangers[0]]} pixels) is outside the "
            f"classes 0..{num_classes - 1} and is not the ignored label {ignore_label} "
            f"(dataset.num_classes={num_classes}); ids found outside: {strangers.tolist()}"
        )


class SemanticLabelReader:
    """Reads the semantic label of a record: its own file, else made from the panoptic PNG.

    Args:
        num_classes: classes are 0..num_classes-1.
        ignore_label: label of pixels without a class.
    """

    def __init__(self, *, num_classes: int, ignore_label: int = 255) -> None:
        self._panoptic = PanopticLabels(num_classes, ignore_label)

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray:
        """Return the label, (H, W) uint8.

        Raises:
            DatasetError: a file cannot be read, or holds an id outside the classes; names both.
        """
        if "sem_seg_file_name" in record:
            file = record["sem_seg_file_name"]
            label = read_image(file, "L").squeeze(2)
            check_semantic(label, file, self._panoptic.num_classes, self._panoptic.ignore_label)
            return label
        panoptic = read_image(record["pan_seg_file_name"], "RGB")
        self._panoptic.check(panoptic, record)
        return self._panoptic.to_semantic(panoptic, record)


def unreadable(files: Iterable[Path], error: Exception) -> EvaluationError:
    """The error for a script that stopped at `error`; names the first of `files` that is broken."""
    broken = next((str(file) for file in files if not _is_readable(file)), "a label")
    return EvaluationError(
        f"cannot read {broken} ({error}); unpack or prepare this file again, then evaluate again"
    )


def _is_readable(file: Path) -> bool:
    try:
        with no_truncated_images(), Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError):  # Pillow raises both on damaged files
        return False
    return True


_last = threading.local()


def read_panoptic_ids(file: str | Path) -> np.ndarray:
    """Read a panoptic PNG: (H, W) ids R + 256 G + 256^2 B, uint32, not to be written to.

    Raises:
        EvaluationError: it cannot be read, or has no colours.
    """
    return _read(file, _panoptic_ids)


def read_label_ids(file: str | Path) -> np.ndarray:
    """Read a label PNG of 8 or 16 bits: (H, W) integers as in the file, not to be written to.

    Raises:
        EvaluationError: it cannot be read, or has several channels.
    """
    return _read(file, _label_ids)


def _read(file: str | Path, decode: Callable[[str | Path, Image.Image], np.ndarray]) -> np.ndarray:
    try:
        status = os.stat(file)
        key = decode, str(file), status.st_mtime_ns, status.st_size
        if getattr(_last, "key", None) == key:
            return _last.label  # type: ignore[no-any-return]
        with no_truncated_images(), Image.open(file) as image:
            label = decode(file, image)
    except (OSError, SyntaxError) as error:
        raise unreadable([Path(file)], error) from error
    label.flags.writeable = False
    _last.key, _last.label = key, label
    return label


def _panoptic_ids(file: str | Path, image: Image.Image) -> np.ndarray:
    if image.mode not in ("RGB", "RGBA"):
        raise EvaluationError(f"{file} is no panoptic label: its mode is {image.mode}, not RGB")
    pixels = np.asarray(image.convert("RGBA"))
    return pixels.view("<u4")[..., 0] & 0xFFFFFF  # (H, W, 4) bytes -> (H, W) numbers, less alpha


def _label_ids(file: str | Path, image: Image.Image) -> np.ndarray:
    pixels = np.array(image)
    if pixels.ndim != 2:
        raise EvaluationError(f"{file} is no label: it has {pixels.shape[2]} channels, not one")
    return pixels
