"""From a record of a dataset to a sample that a model takes.

Samples equal those of Detectron2's mappers for the same state of NumPy's random numbers; added are
checks that name a damaged or ill-fitting file.

Shapes: H W pixels (after augmentation).
"""

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import transforms as T
from numpy.typing import NDArray
from torch import Tensor

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import (
    IGNORE_LABEL,
    SemanticLabelReader,
    read_image,
    require_listed_size,
    require_same_size,
    segment_numbers,
)
from panoptic_dl.core.settings import require_value
from panoptic_dl.data.augment import Augment, Augmentations
from panoptic_dl.data.cache import DecodedCache
from panoptic_dl.data.sources import IDS, Source, open_source
from panoptic_dl.data.targets import PanopticTargets

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


class Augmented(NamedTuple):
    """An image after augmentation, with the ids of its label and all segments of its file."""

    pixels: NDArray[np.uint8]  # (H, W, 3)
    ids: NDArray[np.integer]  # (H, W)
    segments: list[dict[str, Any]]


@dataclass(kw_only=True)
class CopyPaste:
    """Pastes things of one image into another (Ghiasi et al. 2021, "Simple Copy-Paste").

    Args:
        probability: of a sample to get any.
        share: probability of each thing of the other image, crowds left out, to be pasted.

    Raises ValueError for a number that is no probability.
    """

    probability: float = 0.5
    share: float = 0.5

    def __post_init__(self) -> None:
        for name in ("probability", "share"):
            key = f"augmentation.copy_paste.{name}"
            require_value(key, getattr(self, name), float, least=0, most=1)

    def __call__(
        self, sample: Augmented, other: Augmented, thing_ids: Collection[int]
    ) -> Augmented:
        """`sample` with some things of `other`, at the place that they have there.

        They hide what they cover; each is a new segment, with an id that no other has.
        """
        used = {segment["id"] for segment in sample.segments}
        chosen = [
            segment
            for segment in other.segments
            if segment["category_id"] in thing_ids and not segment["iscrowd"]
            if np.random.rand() < self.share  # noqa: NPY002
        ]
        height, width = np.minimum(sample.ids.shape, other.ids.shape)
        part = np.s_[:height, :width]
        numbers = segment_numbers(other.ids[part], [segment["id"] for segment in chosen])
        free = itertools.islice((i for i in itertools.count(1) if i not in used), len(chosen))
        new_ids = np.array([0, *free], sample.ids.dtype)
        pixels, ids, pasted = sample.pixels.copy(), sample.ids.copy(), numbers > 0
        pixels[part][pasted] = other.pixels[part][pasted]
        ids[part][pasted] = new_ids[numbers[pasted]]
        added = [
            {"id": int(number), "category_id": segment["category_id"], "iscrowd": 0}
            for number, segment in zip(new_ids[1:], chosen, strict=True)
        ]
        return Augmented(pixels, ids, [*sample.segments, *added])


class TrainMapper:
    """What both training mappers share: open image and label, check the label, augment.

    Args:
        augmentations: Detectron2 augmentations, applied to image and label together.
        num_classes: classes are 0..num_classes-1.
        image_format: channel order of the model's input, "RGB" or "BGR".
        ignore_label: semantic target of pixels without a class.
        augmentation: how the augmentations are carried out, see `Augment`.
        resize: in place of the first of the augmentations.
        photometric: augmentations that follow them.
        cache: of decoded files.
    """

    def __init__(
        self,
        *,
        augmentations: Augmentations,
        num_classes: int,
        image_format: str = "RGB",
        ignore_label: int = IGNORE_LABEL,
        augmentation: str = "crop_first",
        resize: T.Augmentation | None = None,
        photometric: Augmentations | None = None,
        cache: DecodedCache | None = None,
    ) -> None:
        augmentations = [*augmentations, *(photometric or ())]
        if resize is not None:
            augmentations[:1] = [resize]
        self.augment = Augment(augmentations, augmentation)
        self.image_format = image_format
        self.spec = SemanticLabelReader(num_classes, ignore_label)
        self.cache = cache
        self._checked: set[str] = set()  # label files

    def _open(self, record: dict[str, Any], *, panoptic: bool) -> tuple[Source, Source]:
        """Open the image of a record, and its panoptic or semantic label."""
        image = open_source(record["file_name"], self.image_format, self.cache)
        require_listed_size(record, image.shape)
        file = record["pan_seg_file_name" if panoptic else "sem_seg_file_name"]
        label = open_source(file, IDS if panoptic else "L", self.cache)
        require_same_size(label.shape, file, image.shape, record["file_name"])
        if file not in self._checked:  # all of it, once: 25 ms at 1024 x 2048
            if panoptic:
                self.spec.check_panoptic(label.rows(), record)
            else:
                self.spec.check_semantic(label.rows(), file)
            self._checked.add(file)
        return image, label


class PanopticTrainMapper(TrainMapper):
    """Image and Panoptic-DeepLab targets (Cheng et al., CVPR 2020, section 3.3).

    Args:
        copy_paste: pastes things of other images into a sample.
        shared: see `TrainMapper`; the others are those of `PanopticTargets`.

    Attributes:
        records: the other images, which a loader gives.
    """

    def __init__(
        self,
        *,
        thing_ids: Sequence[int],
        gaussian_sigma: int,
        small_instance_area: int,
        small_instance_weight: int,
        ignore_stuff_in_offset: bool = True,
        ignore_crowd_in_semantic: bool = False,
        copy_paste: CopyPaste | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.copy_paste = copy_paste
        self.records: Sequence[dict[str, Any]] = ()
        self.targets = PanopticTargets(
            ignore_label=self.spec.ignore_label,
            thing_ids=thing_ids,
            sigma=gaussian_sigma,
            ignore_stuff_in_offset=ignore_stuff_in_offset,
            small_instance_area=small_instance_area,
            small_instance_weight=small_instance_weight,
            ignore_crowd_in_semantic=ignore_crowd_in_semantic,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample from a record with "file_name", "pan_seg_file_name", "segments_info".

        Returns:
            The other entries of the record, "height" and "width" of the file,
            "image" (3, H, W) uint8, and what `PanopticTargets` returns.

        Raises:
            DatasetError: a file cannot be read, image and label differ in size, or a label holds an
                id that is not in `segments_info` or outside the classes.
        """
        sample = dict(record)
        made = self._augmented(sample)
        if self.copy_paste is not None:
            made = self._with_pasted(made, self.copy_paste)
            sample["segments_info"] = made.segments
        del sample["pan_seg_file_name"]
        sample["image"] = _to_tensor(made.pixels)
        return sample | self.targets(made.ids, made.segments)

    def _augmented(self, record: dict[str, Any]) -> Augmented:
        image, label = self._open(record, panoptic=True)
        return Augmented(*self.augment(image, label), record["segments_info"])

    def _with_pasted(self, made: Augmented, copy_paste: CopyPaste) -> Augmented:
        """Perhaps with things of a random image, by NumPy's generator as all augmentations."""
        if not self.records or np.random.rand() >= copy_paste.probability:  # noqa: NPY002
            return made
        other = self.records[np.random.randint(len(self.records))]  # noqa: NPY002
        try:
            others = self._augmented(dict(other))
        except DatasetError:  # which is said when its own turn comes, in each epoch
            return made
        return copy_paste(made, others, self.targets.thing_ids)


class SemanticTrainMapper(TrainMapper):
    """Image and one class per pixel.

    The label is the file "sem_seg_file_name" (train ids), or is derived from "pan_seg_file_name"
    and "segments_info" where a dataset has no label files of that kind.

    Raises ValueError for `copy_paste`, which needs things.
    """

    def __init__(self, *, copy_paste: CopyPaste | None = None, **shared: Any) -> None:
        super().__init__(**shared)
        if copy_paste is not None:
            raise ValueError("augmentation=copy_paste pastes things: it needs task=panoptic")

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample.

        Returns:
            The other entries of the record, "height" and "width" of the file,
            "image" (3, H, W) uint8 and "sem_seg" (H, W) int64.

        Raises:
            DatasetError: a file cannot be read, image and label differ in size, or a label holds an
                id outside the classes.
        """
        sample = dict(record)
        panoptic = "sem_seg_file_name" not in record
        image, label = self._open(sample, panoptic=panoptic)
        if panoptic:
            ids = label
            label = Source(
                *(ids.file, "L", ids.shape),
                lambda *rows: self.spec.to_semantic(ids.rows(*rows), record),
            )
        for key in ("sem_seg_file_name", "pan_seg_file_name", "segments_info"):
            sample.pop(key, None)
        pixels, classes = self.augment(image, label)
        sample["image"] = _to_tensor(pixels)
        sample["sem_seg"] = torch.from_numpy(classes.astype(np.int64))
        return sample


class TestMapper:
    """The image alone, not cropped; evaluators read labels themselves.

    Args:
        augmentations: Detectron2 augmentations without chance: the resize to the test size.
        image_format: channel order of the model's input, "RGB" or "BGR".
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    def __init__(self, *, augmentations: Augmentations, image_format: str = "RGB") -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample.

        Returns:
            The record with "image" (3, H, W) uint8, and "height" and "width" of the file, to which
            the model scales its prediction back.

        Raises:
            DatasetError: the image cannot be read, or is not of the listed size.
        """
        sample = dict(record)
        image = read_image(sample["file_name"], self.image_format)
        require_listed_size(sample, image.shape)
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        sample["image"] = _to_tensor(augmented.image)
        return sample


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    # (H, W, 3) -> (3, H, W); torch copies crosswise three times as fast as NumPy
    pixels = np.require(image, requirements=("C", "W"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class _TruthMaps(NamedTuple):
    """Ground truth of one image in the formats of a model's outputs."""

    classes: Tensor  # (H, W) int64, `ignore_label` where unlabeled
    labeled: Tensor  # (H, W) bool
    center: Tensor  # (1, H, W) float32 heatmap, 0..1
    offset: Tensor  # (2, H, W) float32 (y, x) in pixels of the file
    has_offset: Tensor  # (H, W) bool: pixels of things


class TruthMapper:
    """Adds ground truth at the size of the file to what another mapper makes of a record.

    Targets are those of training, of the whole file, without augmentation.

    A crowd is many objects in one segment. Training ignores its center and offsets, yet the
    generator makes them: one center in the middle, to which all its pixels point. They are kept
    here: as one group the pixels are what panoptic quality excuses, and else they would join the
    objects around the crowd, whose shape they would spoil.

    Args:
        mapper: makes the sample, with "pan_seg_file_name" and "segments_info" of the record.
        num_classes: things and stuff; categories of segments must lie below.
        ignore_label: class of pixels without a label.
        thing_ids, gaussian_sigma, ignore_crowd_in_semantic: as the model was trained, see
            `PanopticTargets`.
    """

    def __init__(
        self,
        *,
        mapper: Mapper,
        num_classes: int,
        thing_ids: Sequence[int],
        gaussian_sigma: int,
        ignore_label: int = IGNORE_LABEL,
        ignore_crowd_in_semantic: bool = False,
    ) -> None:
        self.mapper = mapper
        self.spec = SemanticLabelReader(num_classes, ignore_label)
        self.targets = PanopticTargets(
            ignore_label=ignore_label,
            thing_ids=thing_ids,
            sigma=gaussian_sigma,
            ignore_crowd_in_semantic=ignore_crowd_in_semantic,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample, with "truth": `_TruthMaps`.

        Raises:
            DatasetError: a file cannot be read, the label is of another size than the image, or
                holds an id that is not in `segments_info` or outside the classes.
        """
        sample = self.mapper(record)
        file = record["pan_seg_file_name"]
        ids = open_source(file, IDS).rows()
        size = int(sample["height"]), int(sample["width"])
        require_same_size(ids.shape, file, size, record["file_name"])
        self.spec.check_panoptic(ids, record)
        return sample | {"truth": self.maps(ids, record["segments_info"])}

    def maps(self, ids: NDArray[np.integer], segments_info: list[dict[str, Any]]) -> _TruthMaps:
        """The maps of the ids (H, W) of a panoptic label, and its segments."""
        targets = self.targets(ids, segments_info)
        classes = targets["sem_seg"]
        things = [s["id"] for s in segments_info if s["category_id"] in self.targets.thing_ids]
        return _TruthMaps(
            classes=classes,
            labeled=classes != self.spec.ignore_label,
            center=targets["center"].unsqueeze(0),
            offset=targets["offset"],
            has_offset=torch.from_numpy(np.isin(ids, things)),
        )
