"""Read images and labels; name the file when something is wrong with it.

Shapes: H W pixels.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from detectron2.data import detection_utils
from PIL import Image

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.segment_numbers import colors_to_ids, segment_numbers
from panoptic_dl.image_files import no_truncated_images


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
