"""Read images and labels, and check the ids and classes that labels hold.

Shapes: H W pixels.
"""

import os
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from panoptic_dl.core.archives import file_state, open_file
from panoptic_dl.core.errors import DatasetError, EvaluationError, UnreadableImageError

NUM_IDS = 256**3  # ids that a pixel of a panoptic PNG can have: R + 256 G + 256^2 B
VOID_ID = 0  # id, in a panoptic PNG, of pixels without a segment
VOID_LABEL = -1  # in panoptic maps of models (class * label_divisor + instance): no segment
LABEL_DIVISOR = 1000  # of panoptic maps, unless the config says otherwise
IGNORE_LABEL = 255  # in semantic labels, which have 8 bits: pixels without a class

Kind = Literal["image", "panoptic", "label"]

# Of images that are read well; those of twice as many pixels are refused.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(file: str | Path, image_format: str) -> NDArray[np.uint8]:
    """Read an image as Detectron2's `read_image` does, turned upright by its EXIF orientation.

    Args:
        image_format: "RGB" or "BGR", the order of the channels.

    Returns:
        (H, W, 3). Of several frames it is the first; alpha is ignored.

    Raises:
        UnreadableImageError: see `read_size`.
    """
    with opened_image(file) as image:
        pixels = np.asarray(upright_rgb(image, file))
    return pixels[:, :, ::-1] if image_format == "BGR" else pixels


def upright_rgb(image: Image.Image, name: object) -> Image.Image:
    """An opened image as `read_image` reads it; `name` is for the error."""
    image = _upright(image, name, "image")
    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns where this is left out
    return image.convert("RGB")


def read_panoptic_ids(file: str | Path) -> NDArray[np.uint32]:
    """Read a panoptic PNG: (H, W) ids R + 256 G + 256^2 B, read-only.

    Colors may be stored with alpha, which is ignored, or in a palette. Each thread keeps the last
    label that it read, for evaluators that follow each other.

    Raises:
        UnreadableImageError: see `read_size`.
    """
    return _read_label(file, "panoptic", _ids_of)


def read_label_ids(file: str | Path) -> NDArray[np.integer]:
    """Read a label of one number a pixel: (H, W) integers of 8 or 16 bits, read-only.

    Numbers are gray values, be they stored as gray, as equal red, green and blue, or in a palette
    of grays; in a palette of other colors they are the positions in it, as annotation tools and
    Cityscapes' scripts have it. Each thread keeps the last label that it read.

    Raises:
        UnreadableImageError: see `read_size`; or it has colors.
    """
    return _read_label(file, "label", lambda image: _numbers_of(image, file))


def read_classes(file: str | Path) -> NDArray[np.uint8]:
    """Read a semantic label: (H, W), read-only; see `read_label_ids`.

    Raises:
        UnreadableImageError: see there; or a number does not fit into 8 bits, as classes do.
    """
    label = read_label_ids(file)
    if label.dtype != np.uint8 and int(label.max(initial=0)) > IGNORE_LABEL:
        raise UnreadableImageError(
            f"{file} holds the number {label.max()}: classes are 0..{IGNORE_LABEL}"
        )
    return label.astype(np.uint8, copy=False)


def read_size(file: str | Path, kind: Kind | None = None) -> tuple[int, int]:
    """Read (H, W) of a file, turned by its EXIF orientation, from its header alone.

    Args:
        kind: whose reader will read it: "image" (`read_image`), "panoptic" (`read_panoptic_ids`) or
            "label" (`read_label_ids`, `read_classes`); what the header tells of a file that this
            reader refuses is refused here, in the same words. None: any image will do.

    Raises:
        UnreadableImageError: the file is missing, damaged, no image, too large for Pillow's guard,
            of a format that blurs ids, or its pixels are of another depth or mode than the reader
            takes.
    """
    with opened_image(file) as image:
        if kind is not None:
            _require_mode(image, file, kind)
        height, width = image.height, image.width
        # Of a TIFF Pillow turns size and pixels itself.
        turned = image.format != "TIFF" and orientation(image) in ROTATED
        return (width, height) if turned else (height, width)


def open_image(file: str | Path) -> ImageFile.ImageFile:
    """Decode an image file in the mode that it is stored in.

    Raises:
        UnreadableImageError: the file is missing, truncated, no image or too large.
    """
    with opened_image(file) as image:
        image.load()
    return image


ORIENTATION = 274  # tag of EXIF: how a camera was held; 1: upright
ROTATED = (5, 6, 7, 8)  # values that swap height and width
# Chunks by which Pillow would turn a PNG, or show another one.
ORIENTING = (b"eXIf", b"acTL")
ORIENTING_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp", b"xmp")
TAIL = 65536  # bytes at the end of a PNG where EXIF may stand behind the pixels

EXACT = ("PNG", "TIFF", "BMP", "GIF")  # formats that keep each pixel's number
COLORED = ("RGB", "RGBA", "RGBX", "P", "PA")
GRAY = ("1", "L", "LA")
DEEP_LABEL = (
    "panoptic PNGs have 8, and ids are read from those: write it anew with colors "
    "(id % 256, id // 256 % 256, id // 65536) in an array of uint8"
)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8, of an image that was opened but need not be decoded."""
    try:
        if (
            isinstance(image, ImageFile.ImageFile)
            and image.format == "PNG"
            and image.tile
            and not _has_late_metadata(image)
        ):
            exif = Image.Image.getexif(image)  # PNG's own would decode all pixels first
        else:
            exif = image.getexif()
        turn = exif.get(ORIENTATION, 1)
    except Exception:  # damaged EXIF, which Detectron2 ignores as well
        return 1
    return turn if turn in range(1, 9) else 1


def _has_late_metadata(image: ImageFile.ImageFile) -> bool:
    opened = image.fp
    assert opened is not None
    position = opened.tell()
    start = max(position, opened.seek(0, os.SEEK_END) - TAIL)
    opened.seek(start)
    tail = opened.read()
    opened.seek(position)
    return any(name in tail for name in (b"eXIf", *ORIENTING_TEXTS))


def _upright(image: Image.Image, name: object, kind: Kind) -> Image.Image:
    """Decode an opened image of a kind, and turn it."""
    _require_mode(image, name, kind)
    image.load()
    with suppress(Exception):  # damaged EXIF, which Detectron2 ignores as well
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _require_mode(image: Image.Image, name: object, kind: Kind) -> None:
    """Raise `UnreadableImageError` unless the pixels of an opened image are of a kind."""
    mode, problem = image.mode, ""
    tiles = getattr(image, "tile", ())
    deep = any(";16" in str(tile.args) for tile in tiles)  # Pillow keeps the high bytes
    if kind == "image":
        if mode[0] in "IF":
            problem = (
                f"has more than 8 bits a pixel (mode {mode}): write it anew with 8, scaled as "
                "suits it"
            )
    elif image.format not in EXACT:
        problem = f"is {image.format}, which may blur ids: labels must be PNG"
    elif kind == "panoptic":
        if deep or mode[0] in "IF":
            problem = f"has more than 8 bits a channel: {DEEP_LABEL}"
        elif mode in GRAY and image.convert("L").getextrema() == (0, 0):
            pass  # all is void: optimizers of PNGs store it so
        elif mode not in COLORED:
            problem = (
                f"is no panoptic label: its mode is {mode}, not RGB; the color of an id is "
                "(id % 256, id // 256 % 256, id // 65536), as panopticapi's id2rgb makes it"
            )
    elif mode[0] != "I" and (deep or mode not in (*COLORED, *GRAY)):
        problem = f"is no label of one number a pixel: its mode is {mode}; write it as 8-bit gray"
    if problem:
        raise UnreadableImageError(f"{name} {problem}")


def _ids_of(image: Image.Image) -> NDArray[np.uint32]:
    if image.mode not in ("RGB", "RGBA", "RGBX"):
        image = image.convert("RGBA").convert("RGB")  # straight, Pillow warns of transparency
    return colors_to_ids(np.asarray(image)[..., :3])


def _numbers_of(image: Image.Image, file: str | Path) -> NDArray[np.integer]:
    pixels = np.array(image.convert("L") if image.mode == "1" else image)
    if image.mode == "P":
        colors = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        if (colors == colors[:, :1]).all():
            pixels = np.resize(colors[:, 0], 256)[pixels]
    if pixels.ndim == 3:
        if image.mode in ("RGB", "RGBA", "RGBX") and (pixels[..., 1:3] != pixels[..., :1]).any():
            raise UnreadableImageError(
                f"{file} is no label of one number a pixel: it has colors; write it as 8-bit gray"
            )
        pixels = np.ascontiguousarray(pixels[..., 0])
    return pixels


@contextmanager
def opened_image(file: str | Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; what Pillow raises meanwhile becomes an error that names the file."""
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # else a truncated image is gray at its end
        with open_file(file) as opened:
            yield Image.open(opened)
    except DatasetError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly all kinds on damaged files
        raise UnreadableImageError(
            f"cannot read {file} ({why_unreadable(error)}); fetch or prepare this file again"
        ) from error


def most_pixels() -> float:
    """The most pixels that an image may have: Pillow's guard against files that fill the memory."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def why_unreadable(error: Exception) -> str:
    """Why an image cannot be read, from the error of opening or decoding it."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it has more than {most_pixels():,} pixels, the most that are read; cut it into "
            "tiles, or make it smaller (and its label)"
        )
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    text = str(error) or type(error).__name__
    if "cannot identify image file" in text:
        text = "no image that Pillow knows"
    return f"truncated or damaged: {text}"


_of_thread = threading.local()  # .table of `segment_numbers`; .key and .label of the last label


def _read_label(
    file: str | Path, kind: Kind, decode: Callable[[Image.Image], NDArray[Any]]
) -> NDArray[Any]:
    key = kind, *file_state(file)  # of a missing one, opening it will raise the error
    if getattr(_of_thread, "key", None) != key:
        with opened_image(file) as image:
            label = decode(_upright(image, file, kind))
        label.flags.writeable = False
        _of_thread.key, _of_thread.label = key, label
    found: NDArray[Any] = _of_thread.label
    return found


def colors_to_ids(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The ids, R + 256 G + 256^2 B, of colors (H, W, 3): `panopticapi.utils.rgb2id`, faster."""
    import cv2  # which panoptic_dl.runtime does without

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


def picture_ids(
    panoptic: np.ndarray, num_classes: int, label_divisor: int
) -> tuple[np.ndarray, dict[int, int]]:
    """The ids of a PNG, (H, W) int64, 0 where void; and the id of each value, ascending.

    Values + 1 of the map (H, W), category * label_divisor + instance, -1 where void; or counted
    where three bytes do not hold those.
    """
    ids, found = shifted_labels(panoptic, num_classes, label_divisor)
    numbers = found
    if len(found) and found[-1] >= NUM_IDS:
        ids = np.where(ids == 0, 0, np.searchsorted(found, ids) + 1)
        numbers = np.arange(1, len(found) + 1)
    return ids, dict(zip((found - 1).tolist(), numbers.tolist(), strict=True))


def shifted_labels(
    panoptic: np.ndarray, num_classes: int, label_divisor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Add 1 to a panoptic map, so that void is 0; also return the other values, ascending.

    Args:
        panoptic: (H, W) of category * label_divisor + instance, -1 where void.

    Raises:
        EvaluationError: a value is neither.
    """
    lowest, highest = int(panoptic.min()), int(panoptic.max())
    if lowest < -1 or highest >= num_classes * label_divisor:
        raise EvaluationError(
            f"predicted panoptic id {lowest if lowest < -1 else highest} is neither void (-1) nor "
            f"one of {num_classes} classes * {label_divisor} + instance"
        )
    labels = np.add(panoptic, 1, dtype=np.int64)
    if highest < NUM_IDS:
        found = np.flatnonzero(np.bincount(labels.reshape(-1)))
    else:
        found = np.unique(labels)  # a table would take gigabytes
    return labels, found[found > 0]


def segment_numbers(ids: NDArray[np.integer], segment_ids: Sequence[int]) -> NDArray[np.uint16]:
    """(H, W): 1 + position of the pixel's id in `segment_ids`, 0 where it is none of them.

    A look-up table over all ids (32 MB, one per thread) costs a few milliseconds at 1024 x 2048
    pixels; `numpy.unique`, which sorts pixels, a hundred.

    Args:
        ids: (H, W), 0..NUM_IDS-1.
        segment_ids: no two the same. Ids that no pixel can have are ignored.

    Raises:
        ValueError: there are more than 65,535.
    """
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


def segment_problem(segment: Mapping[str, Any], others: Collection[int]) -> str:
    """What is wrong with an entry of "segments_info", in words that go behind its id; mostly "".

    Args:
        others: ids of other segments of the image.
    """
    number, area = segment.get("id"), segment.get("area")
    crowd = segment.get("iscrowd", 0)
    if type(number) is not int or not 0 < number < NUM_IDS:
        return (
            f": ids are whole numbers from 1 to {NUM_IDS - 1}, R + 256 G + 65536 B of the PNG; "
            "0 is void"
        )
    if number in others:
        return " is listed twice: give each segment of an image its own id"
    if crowd not in (0, 1):
        return f': "iscrowd" is {crowd!r}; write 0 or 1, or leave it out'
    if area is not None and not (type(area) in (int, float) and area >= 0):
        return f': "area" is {area!r}; write a number of pixels, or leave it out'
    return ""


class SemanticLabelReader:
    """Reads the semantic label of a record: its own file, else made from the panoptic PNG.

    Labels may hold the classes 0..num_classes-1, and `ignore_label` where pixels have none.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label

    def __call__(self, record: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Read the label: (H, W).

        Raises:
            DatasetError: a file cannot be read, or holds an id outside the classes; names both.
        """
        if "sem_seg_file_name" in record:
            file = record["sem_seg_file_name"]
            label = read_classes(file)
            self.check_semantic(label, file)
            return label
        ids = read_panoptic_ids(record["pan_seg_file_name"])
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
        return segment_numbers(ids, [segment["id"] for segment in record["segments_info"]])


def require_listed_size(record: dict[str, Any], shape: tuple[int, ...]) -> None:
    """Raise `DatasetError` unless an image (H, W, ...) has the size of its record.

    "height" and "width" are added to a record that has none.
    """
    file = record["file_name"]
    listed = record.setdefault("height", shape[0]), record.setdefault("width", shape[1])
    require_same_size(listed, "its entry in the JSON file", shape, file)


def require_same_size(
    label: tuple[int, ...], label_file: str, image: tuple[int, ...], image_file: str
) -> None:
    """Raise `DatasetError` unless the shapes (H, W, ...) of a label and its image agree."""
    if label[:2] != image[:2]:
        remedy = "correct the one that is wrong (a label without blending ids)"
        with opened_image(image_file) as opened:
            if label[:2] == image[1::-1] and orientation(opened) in ROTATED:
                remedy = "the image is turned by its EXIF orientation: turn the other as well"
        raise DatasetError(
            f"sizes differ: {label_file} is {label[1]} x {label[0]}, "
            f"{image_file} is {image[1]} x {image[0]} (width x height); {remedy}"
        )
