"""Read images and labels, and check the ids and classes that labels hold.

Shapes: H W pixels.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from panoptic_dl.core.errors import DatasetError, EvaluationError, UnreadableImageError

NUM_IDS = 256**3  # ids that a pixel of a panoptic PNG can have: R + 256 G + 256^2 B
VOID_ID = 0  # id, in a panoptic PNG, of pixels without a segment
VOID_LABEL = -1  # in panoptic maps of models (class * label_divisor + instance): no segment
IGNORE_LABEL = 255  # in semantic labels, which have 8 bits: pixels without a class


def read_image(file: str | Path, image_format: str) -> NDArray[np.uint8]:
    """Read an image as Detectron2's `read_image` does, turned upright by its EXIF orientation.

    Args:
        image_format: "RGB", "BGR" or "L", the order of the channels.

    Returns:
        (H, W, channels).

    Raises:
        UnreadableImageError: the file is missing, truncated or no image.
        DatasetError: it has more than 8 bits per channel, which Pillow would clip at 255.
    """
    from detectron2.data import detection_utils  # Detectron2 imports torch; scripts do without

    image = open_image(file)
    if image.mode[0] in "IF":
        raise DatasetError(
            f"{file} has more than 8 bits a pixel (mode {image.mode}): write it anew with 8, "
            "scaled as suits it"
        )
    with _naming(file):  # damaged metadata
        upright = detection_utils._apply_exif_orientation(image)
        pixels: NDArray[np.uint8] = detection_utils.convert_PIL_to_numpy(upright, image_format)
    return pixels


def read_panoptic_ids(file: str | Path) -> NDArray[np.uint32]:
    """Read a panoptic PNG: (H, W) ids R + 256 G + 256^2 B, read-only.

    Each thread keeps the last label that it read, for evaluators that follow each other.

    Raises:
        UnreadableImageError: it cannot be read.
        EvaluationError: it has no colors.
    """

    def decode(image: Image.Image) -> NDArray[np.uint32]:
        if image.mode not in ("RGB", "RGBA"):
            raise EvaluationError(f"{file} is no panoptic label: its mode is {image.mode}, not RGB")
        return colors_to_ids(np.asarray(image)[..., :3])

    return _read_label(file, decode)


def read_label_ids(file: str | Path) -> NDArray[np.integer]:
    """Read a label PNG of 8 or 16 bits: (H, W) integers as in the file, read-only.

    Each thread keeps the last label that it read, for evaluators that follow each other.

    Raises:
        UnreadableImageError: it cannot be read.
        EvaluationError: it has several channels.
    """

    def decode(image: Image.Image) -> NDArray[np.integer]:
        pixels = np.array(image)
        if pixels.ndim != 2:
            raise EvaluationError(f"{file} is no label: it has {pixels.shape[2]} channels, not one")
        return pixels

    return _read_label(file, decode)


def read_size(file: str | Path) -> tuple[int, int]:
    """Read (H, W) of an image file, without decoding it or turning it by its EXIF orientation.

    Raises:
        UnreadableImageError: the file is missing or no image.
    """
    with _naming(file), Image.open(file) as image:
        size = image.height, image.width
    return size


def open_image(file: str | Path) -> Image.Image:
    """Decode an image file in the mode that it is stored in.

    Raises:
        UnreadableImageError: the file is missing, truncated or no image.
    """
    with _naming(file), open(file, "rb") as opened:
        image = decode_image(opened)
    return image


def decode_image(opened: BinaryIO) -> Image.Image:
    """Decode all of an opened image file, or raise one of Pillow's many errors."""
    with no_truncated_images():
        image = Image.open(opened)
        image.load()
    return image


@contextmanager
def _naming(file: str | Path) -> Iterator[None]:
    """Turn what Pillow raises on damaged files into an error that names the file."""
    try:
        yield
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImageError(
            f"cannot read {file} ({why_unreadable(error)}); fetch or prepare this file again"
        ) from error


def why_unreadable(error: Exception) -> str:
    """Why an image cannot be read, from the error of opening or decoding it."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return str(error.strerror)
    text = str(error) or type(error).__name__
    if "cannot identify image file" in text:
        text = "no image that Pillow knows"
    return f"truncated or damaged: {text}"


_lock = threading.Lock()
_readers = 0  # threads inside `no_truncated_images`
_flag_outside = False


@contextmanager
def no_truncated_images() -> Iterator[None]:
    """Let Pillow raise OSError on a truncated image, whatever LOAD_TRUNCATED_IMAGES is outside.

    The flag is global: the first of several threads clears it, the last one restores it.
    """
    global _readers, _flag_outside
    with _lock:
        if not _readers:
            _flag_outside = ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                ImageFile.LOAD_TRUNCATED_IMAGES = _flag_outside


_of_thread = threading.local()  # .table of `segment_numbers`; .key and .label of the last label


def _read_label(file: str | Path, decode: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    with _naming(file):
        status = Path(file).stat()
    key = decode.__qualname__, str(file), status.st_mtime_ns, status.st_size
    if getattr(_of_thread, "key", None) != key:
        label = decode(open_image(file))
        label.flags.writeable = False
        _of_thread.key, _of_thread.label = key, label
    found: NDArray[Any] = _of_thread.label
    return found


def colors_to_ids(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The ids, R + 256 G + 256^2 B, of colors (H, W, 3): `panopticapi.utils.rgb2id`, faster."""
    if not colors.size:  # which OpenCV refuses
        return np.zeros(colors.shape[:2], np.uint32)
    four_bytes = cv2.cvtColor(np.ascontiguousarray(colors), cv2.COLOR_RGB2RGBA)
    ids: NDArray[np.uint32] = four_bytes.view("<u4")[:, :, 0]
    ids &= 0xFFFFFF
    return ids


def ids_to_colors(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The colors (H, W, 3) of ids (H, W): `panopticapi.utils.id2rgb`, faster."""
    four_bytes = np.ascontiguousarray(ids, dtype="<u4").view(np.uint8)
    return four_bytes.reshape(*ids.shape, 4)[:, :, :3].copy()


def segment_numbers(ids: NDArray[np.integer], segment_ids: Sequence[int]) -> NDArray[np.uint16]:
    """(H, W): 1 + position of the pixel's id in `segment_ids`, 0 where it is none of them.

    A look-up table over all ids (32 MB, one per thread) costs a few milliseconds at 1024 x 2048
    pixels; `numpy.unique`, which sorts pixels, a hundred.

    Args:
        ids: (H, W), 0..NUM_IDS-1.
        segment_ids: no two the same. Ids that no pixel can have are ignored.

    Raises:
        ValueError: an id occurs twice, or there are more than 65,535.
    """
    if len(set(segment_ids)) != len(segment_ids):
        twice = next(i for n, i in enumerate(segment_ids) if i in segment_ids[:n])
        raise ValueError(f"two segments have the id {twice}")
    if len(segment_ids) >= 2**16:
        raise ValueError(f"{len(segment_ids)} segments in an image; 65535 are the most")
    table = getattr(_of_thread, "table", None)
    if table is None:
        table = _of_thread.table = np.zeros(NUM_IDS, np.uint16)
    keys, numbers = np.asarray(segment_ids, np.int64), np.arange(1, len(segment_ids) + 1)
    possible = (keys >= 0) & (keys < NUM_IDS)
    keys = keys[possible]
    table[keys] = numbers[possible]
    try:
        found: NDArray[np.uint16] = table[ids]
    finally:
        table[keys] = 0  # filling all of the table each time would be slow
    return found


class SemanticLabelReader:
    """Reads the semantic label of a record: its own file, else made from the panoptic PNG.

    Labels may hold the classes 0..num_classes-1, and `ignore_label` where pixels have none.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        if not 0 < num_classes <= 255 or not 0 <= ignore_label <= 255:
            raise ValueError(f"labels are 8 bit: {num_classes=}, {ignore_label=} do not fit")
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    def __call__(self, record: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Read the label: (H, W).

        Raises:
            DatasetError: a file cannot be read, or holds an id outside the classes; names both.
        """
        if "sem_seg_file_name" in record:
            file = record["sem_seg_file_name"]
            label = read_image(file, "L").squeeze(2)
            self.check_semantic(label, file)
            return label
        ids = colors_to_ids(read_image(record["pan_seg_file_name"], "RGB"))
        self.check_panoptic(ids, record)
        return self.to_semantic(ids, record)

    def check_panoptic(self, ids: NDArray[np.integer], record: Mapping[str, Any]) -> None:
        """Raise `DatasetError` unless the ids (H, W) of a panoptic PNG fit its record.

        Pixels must be void or belong to a segment of `record["segments_info"]`, whose categories
        lie in 0..num_classes-1.
        """
        file = record["pan_seg_file_name"]
        for segment in record["segments_info"]:
            if not 0 <= segment["category_id"] < self.num_classes:
                raise DatasetError(
                    f"{file}: segment {segment['id']} has category {segment['category_id']}, "
                    f"outside the classes 0..{self.num_classes - 1} "
                    f"(dataset.num_classes={self.num_classes})"
                )
        unknown = self._numbers(ids, record) == 0
        unknown &= ids != VOID_ID
        if unknown.any():
            unknown_ids = np.unique(ids[unknown]).tolist()
            raise DatasetError(
                f"{file}: id {unknown_ids[0]} is in the PNG ({int(unknown.sum())} pixels of "
                f"{len(unknown_ids)} such ids) but not in segments_info of the JSON file; the two "
                "do not belong together: fetch or prepare them again. In PNGs of your own a color "
                "is id % 256, id // 256 % 256, id // 65536, and is never blended by resizing"
            )

    def check_semantic(self, label: NDArray[np.integer], file: str) -> None:
        """Raise `DatasetError` if a pixel of `label`, (H, W), is no class and not ignored."""
        counts = np.bincount(label.ravel(), minlength=256)
        counts[self.ignore_label] = 0
        unknown = np.flatnonzero(counts[self.num_classes :]) + self.num_classes
        if len(unknown):
            raise DatasetError(
                f"{file}: label id {unknown[0]} ({counts[unknown[0]]} pixels) is outside the "
                f"classes 0..{self.num_classes - 1} and is not the ignored label "
                f"{self.ignore_label} (dataset.num_classes={self.num_classes}); ids found outside: "
                f"{unknown.tolist()}"
            )

    def to_semantic(self, ids: NDArray[np.integer], record: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Classes (H, W) of the ids (H, W) of a panoptic PNG."""
        categories = [segment["category_id"] for segment in record["segments_info"]]
        table = np.array([self.ignore_label, *categories], dtype=np.uint8)
        classes: NDArray[np.uint8] = table[self._numbers(ids, record)]
        return classes

    def _numbers(self, ids: NDArray[np.integer], record: Mapping[str, Any]) -> NDArray[np.uint16]:
        try:
            return segment_numbers(ids, [segment["id"] for segment in record["segments_info"]])
        except ValueError as error:
            file = record["pan_seg_file_name"]
            raise DatasetError(f"{file}: {error} in segments_info of the JSON file") from error


def require_same_size(
    label: tuple[int, ...], label_file: str, image: tuple[int, ...], image_file: str
) -> None:
    """Raise `DatasetError` unless the shapes (H, W, ...) of a label and its image agree."""
    if label[:2] != image[:2]:
        raise DatasetError(
            f"sizes differ: {label_file} is {label[1]} x {label[0]}, "
            f"{image_file} is {image[1]} x {image[0]} (width x height)"
        )
