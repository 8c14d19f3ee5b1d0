"""Resize, crop and flip as Detectron2 does, touching only the pixels that end up in the crop.

Cityscapes' recipe enlarges an image to 2048 x 4096 pixels to keep 512 x 1024 of them. Here the crop
is chosen first, from the same random numbers. Every pixel comes out as from the long way: the part
that is resized begins and ends where pixels of the image and of the enlarged one share an edge, so
that Pillow weighs the same pixels by the same weights.

Shapes: H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, gcd
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image

from panoptic_dl.core.images import colors_to_ids, ids_to_colors
from panoptic_dl.data.sources import IDS, Source

SHAPE_ONLY = (  # whose random choice depends on the size of the image, not on pixels
    T.ResizeShortestEdge,
    T.ResizeScale,
    T.RandomCrop,
    T.RandomFlip,
    T.Resize,
    T.FixedSizeCrop,
    T.CropTransform,
    T.NoOpTransform,
)

WORTH_A_PART = 0.9  # of an enlarged image: where more is kept, all of it is resized
ROWS_SEEN = 16  # of noise, by which orders of passes differ

Augmentations = Sequence[T.Augmentation | T.Transform]


class _Axis(NamedTuple):
    """Rows or columns: `old` are resized to `new`, of which start..stop-1 are kept."""

    old: int
    new: int
    start: int
    stop: int


@dataclass
class _Plan:
    """What to do with an image: resize, then crop, then flip; then the other transforms."""

    rows: _Axis
    columns: _Axis
    flips: list[int] = field(default_factory=list)  # axes: 0 vertical, 1 horizontal
    rest: list[Any] = field(default_factory=list)  # augmentations and transforms

    @property
    def is_empty(self) -> bool:
        axes = self.rows, self.columns
        return not self.flips and all(axis == (axis.old, axis.old, 0, axis.old) for axis in axes)

    def add(self, transform: Any) -> bool:
        """Add a transform; False if it cannot be done with those before.

        Nor can one that leaves no pixels: Detectron2 makes an empty sample, or its own error.
        """
        if isinstance(transform, T.NoOpTransform):
            return True
        if type(transform) is T.ResizeTransform and transform.interp == Image.Resampling.BILINEAR:
            height, width = transform.new_h, transform.new_w
            if not (self.is_empty and height and width):
                return False
            self.rows = _Axis(self.rows.old, height, 0, height)
            self.columns = _Axis(self.columns.old, width, 0, width)
            return True
        if type(transform) is T.CropTransform:
            if self.flips or not (transform.w and transform.h):
                return False
            self.rows = _cropped(self.rows, transform.y0, transform.h)
            self.columns = _cropped(self.columns, transform.x0, transform.w)
            return True
        if type(transform) in (T.HFlipTransform, T.VFlipTransform):
            self.flips.append(int(type(transform) is T.HFlipTransform))
            return True
        return False


def _cropped(axis: _Axis, first: int, length: int) -> _Axis:
    start = axis.start + first
    return axis._replace(start=start, stop=min(start + length, axis.stop))


class Augment:
    """Applies augmentations to an image and its label.

    Args:
        augmentations: Detectron2's.
        method: "crop_first": `ResizeShortestEdge`, then a random crop, then `RandomFlip`, as far as
            they come first and in this order, are done together, the others on the pixels that
            these leave. "reference": Detectron2 does all of them, on the whole image.
    """

    def __init__(self, augmentations: Augmentations, method: str = "crop_first") -> None:
        self.augmentations = list(augmentations)
        self.method = method

    def __call__(
        self, image: Source, label: Source
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        """The augmented image, (H, W, 3), and label, (H, W), of files of the same size."""
        plan = self.plan(image.shape)
        pixels, values = _augment_image(image, plan), _augment_label(label, plan)
        if not plan.rest:
            return pixels, values
        is_panoptic = label.image_format == IDS  # other transforms may expect bytes
        rest = T.AugInput(pixels, sem_seg=ids_to_colors(values) if is_panoptic else values)
        T.AugmentationList(plan.rest)(rest)
        return rest.image, colors_to_ids(rest.sem_seg) if is_panoptic else rest.sem_seg

    def plan(self, shape: tuple[int, int]) -> _Plan:
        """Draw what is random about the augmentations of an image of `shape`."""
        height, width = shape
        plan = _Plan(_Axis(height, height, 0, height), _Axis(width, width, 0, width))
        if self.method == "reference":
            plan.rest = self.augmentations
            return plan
        for number, augmentation in enumerate(self.augmentations):
            if not _depends_on_shape_only(augmentation):
                plan.rest = self.augmentations[number:]
                break
            size = plan.rows.stop - plan.rows.start, plan.columns.stop - plan.columns.start
            transform = _draw(augmentation, size)
            if not plan.add(transform):
                plan.rest = [transform, *self.augmentations[number + 1 :]]
                break
        return plan


def _depends_on_shape_only(augmentation: Any) -> bool:
    if type(augmentation) is T.RandomCrop_CategoryAreaConstraint:
        return bool(augmentation.single_category_max_area >= 1)
    return type(augmentation) in SHAPE_ONLY


def _draw(augmentation: Any, size: tuple[int, int]) -> Any:
    if isinstance(augmentation, T.Transform):
        return augmentation
    blank = np.broadcast_to(np.uint8(0), (*size, 3))  # takes no memory
    if isinstance(augmentation, T.RandomCrop_CategoryAreaConstraint):
        return augmentation.get_transform(blank, blank[:, :, 0])
    return augmentation.get_transform(blank)


class _Part(NamedTuple):
    """The part of one axis that is resized, and what is kept of the result."""

    first: int  # pixels first..last-1 of the file are read,
    last: int
    box: tuple[int, int]  # of which this range
    size: int  # is resized to so many pixels,
    crop: slice  # of which these are kept


def _part(axis: _Axis) -> _Part:
    common = gcd(axis.old, axis.new)
    old, new = axis.old // common, axis.new // common  # every `new` pixels end where `old` do
    start, stop = axis.start // new, ceil(axis.stop / new)
    reach = ceil(max(1, old / new)) + 1  # pixels that Pillow's bilinear weights look beyond
    first, last = max(0, start * old - reach), min(axis.old, stop * old + reach)
    box = (start * old - first, stop * old - first)
    crop = slice(axis.start - start * new, axis.stop - start * new)
    return _Part(first, last, box, (stop - start) * new, crop)


def _augment_image(image: Source, plan: _Plan) -> NDArray[np.uint8]:
    rows, columns = _part(plan.rows), _part(plan.columns)
    new = plan.rows.new, plan.columns.new
    order = None
    if rows.size * columns.size < WORTH_A_PART * new[0] * new[1]:
        order = _order_of_passes((plan.rows.old, plan.columns.old), new)
    if order is None:
        whole = Image.fromarray(np.ascontiguousarray(image.rows()))
        resized = whole.resize((new[1], new[0]), Image.Resampling.BILINEAR)
        crop = slice(plan.rows.start, plan.rows.stop), slice(plan.columns.start, plan.columns.stop)
        return _flipped(np.asarray(resized)[crop], plan.flips)
    pixels = image.rows(rows.first, rows.last)[:, columns.first : columns.last]
    return _flipped(_resized(pixels, rows, columns, order), plan.flips)


def _resized(
    pixels: NDArray[np.integer], rows: _Part, columns: _Part, order: tuple[int, int]
) -> NDArray[np.uint8]:
    """What is kept of the parts of both axes, resized one after the other."""
    part = Image.fromarray(np.ascontiguousarray(pixels))
    for axis in order:
        width, height = part.size
        if axis == 0:
            size, box = (width, rows.size), (0, rows.box[0], width, rows.box[1])
        else:
            size, box = (columns.size, height), (columns.box[0], 0, columns.box[1], height)
        part = part.resize(size, Image.Resampling.BILINEAR, box)
    return np.asarray(part)[rows.crop, columns.crop]


@lru_cache(maxsize=4096)
def _order_of_passes(old: tuple[int, int], new: tuple[int, int]) -> tuple[int, int] | None:
    """The axes in the order in which Pillow resizes (H, W); between the two it rounds to 8 bits.

    Asked of Pillow itself, with noise, of which the first rows tell: the rule differs between
    versions. None: it is done in some other way.
    """
    noise = np.resize(np.random.default_rng(0).integers(0, 256, 65_537, dtype=np.uint8), old)
    whole = Image.fromarray(noise).resize((new[1], new[0]), Image.Resampling.BILINEAR)
    seen = min(new[0], ROWS_SEEN)
    rows, columns = _part(_Axis(old[0], new[0], 0, seen)), _part(_Axis(old[1], new[1], 0, new[1]))
    for order in ((1, 0), (0, 1)):
        if np.array_equal(
            _resized(noise[: rows.last], rows, columns, order), np.asarray(whole)[:seen]
        ):
            return order
    return None


def _augment_label(label: Source, plan: _Plan) -> NDArray[np.integer]:
    rows, columns = (
        _nearest(axis.old, axis.new)[axis.start : axis.stop] for axis in (plan.rows, plan.columns)
    )
    first = int(rows[0])
    pixels = label.rows(first, int(rows[-1]) + 1)
    return _flipped(pixels[rows - first].take(columns, axis=1), plan.flips)


def _flipped(pixels: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    return np.flip(pixels, axes) if axes else pixels


@lru_cache(maxsize=256)
def _nearest(old: int, new: int) -> NDArray[np.int32]:
    """For each of `new` pixels the one of `old` that Pillow takes when it resizes to the nearest.

    Asked of Pillow itself: where two are equally near, the rounding of its sums decides.
    """
    row = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.asarray(row.resize((new, 1), Image.Resampling.NEAREST))[0]
