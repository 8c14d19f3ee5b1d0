"""From a record of a dataset to what a model takes.

Every sample equals that of Detectron2's mappers for the same state of NumPy's random numbers; added
are the checks that turn a damaged or ill-fitting file into an error that names it.

Shapes: H W pixels (after augmentation).

What a network without fault would say of an image: the labels, in the model's own formats.

Shapes: H W pixels of the image file.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from torch import Tensor

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import (
    PanopticLabels,
    check_semantic,
    check_size,
    colors_to_ids,
    read_image,
)
from panoptic_dl.data.augment import Augment, Augmentations
from panoptic_dl.data.sources import IDS, DecodedCache, Source, open_source
from panoptic_dl.data.targets import PanopticTargets


class PanopticTrainMapper:
    """Image and Panoptic-DeepLab targets (Cheng et al., CVPR 2020, section 3.3).

    Args:
        augmentations: Detectron2 augmentations, applied to image and label together.
        image_format: channel order of the model's input, "RGB" or "BGR".
        num_classes: things and stuff; categories of segments must lie below.
        thing_ids: the categories that have instances.
        ignore_label: semantic target of pixels without a label.
        gaussian_sigma: of the peak at each centre in the heatmap, in pixels of the sample.
        small_instance_area: instances with fewer pixels in the sample weigh `small_instance_weight`
            times in the semantic loss.
        ignore_stuff_in_offset: the offset loss looks at things only.
        ignore_crowd_in_semantic: crowd regions get `ignore_label`.
        augmentation: how the augmentations are carried out, see `Augment`.
        cache: of decoded files.
    """

    def __init__(
        self,
        *,
        augmentations: Augmentations,
        num_classes: int,
        thing_ids: Sequence[int],
        gaussian_sigma: int,
        small_instance_area: int,
        small_instance_weight: int,
        image_format: str = "RGB",
        ignore_label: int = 255,
        ignore_stuff_in_offset: bool = True,
        ignore_crowd_in_semantic: bool = False,
        augmentation: str = "crop_first",
        cache: DecodedCache | None = None,
    ) -> None:
        self.augment = Augment(augmentations, augmentation)
        self.image_format = image_format
        self.cache = cache
        self.labels = PanopticLabels(num_classes, ignore_label)
        self.targets = PanopticTargets(
            ignore_label=ignore_label,
            thing_ids=thing_ids,
            sigma=gaussian_sigma,
            ignore_stuff_in_offset=ignore_stuff_in_offset,
            small_instance_area=small_instance_area,
            small_instance_weight=small_instance_weight,
            ignore_crowd_in_semantic=ignore_crowd_in_semantic,
        )
        self._checked: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample from a record with "file_name", "pan_seg_file_name", "segments_info".

        Returns:
            The other entries of the record, "height" and "width" of the file, and
            "image" (3, H, W) uint8, "sem_seg" (H, W) int64, "sem_seg_weights" (H, W),
            "center" (H, W), "center_weights" (1, H, W), "offset" (2, H, W) in pixels, y before x,
            "offset_weights" (1, H, W), all float32, "center_points" [[y, x], ...].

        Raises:
            DatasetError: a file cannot be read, image and label differ in size, or a label holds an
                id that is not in `segments_info` or outside the classes.
        """
        record = copy.deepcopy(record)
        file = record.pop("pan_seg_file_name")
        image = open_source(record["file_name"], self.image_format, self.cache)
        detection_utils.check_image_size(record, image)
        label = open_source(file, IDS, self.cache)
        check_size(label, file, image, record["file_name"])
        if file not in self._checked:  # all of it, once: 25 ms at 1024 x 2048
            self.labels.check(label.rows(label.shape[0]), record | {"pan_seg_file_name": file})
            self._checked.add(file)
        pixels, ids = self.augment(image, label)
        record["image"] = _to_tensor(pixels)
        return record | self.targets(ids, record["segments_info"])


class SemanticTrainMapper:
    """Image and one class per pixel.

    The label is the file "sem_seg_file_name" (train ids), or is derived from "pan_seg_file_name"
    and "segments_info" where a dataset has no label files of that kind.

    Args:
        augmentations: Detectron2 augmentations, applied to image and label together.
        image_format: channel order of the model's input, "RGB" or "BGR".
        num_classes: classes are 0..num_classes-1.
        ignore_label: label of pixels without a class.
        augmentation: how the augmentations are carried out, see `Augment`.
        cache: of decoded files.
    """

    def __init__(
        self,
        *,
        augmentations: Augmentations,
        num_classes: int,
        image_format: str = "RGB",
        ignore_label: int = 255,
        augmentation: str = "crop_first",
        cache: DecodedCache | None = None,
    ) -> None:
        self.augment = Augment(augmentations, augmentation)
        self.image_format = image_format
        self.cache = cache
        self.labels = PanopticLabels(num_classes, ignore_label)
        self._checked: set[str] = set()

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample.

        Returns:
            The other entries of the record, "height" and "width" of the file,
            "image" (3, H, W) uint8 and "sem_seg" (H, W) int64.

        Raises:
            DatasetError: a file cannot be read, image and label differ in size, or a label holds an
                id outside the classes.
        """
        record = dict(record)
        image = open_source(record["file_name"], self.image_format, self.cache)
        detection_utils.check_image_size(record, image)
        label = self._open_label(record)
        check_size(label, label.file, image, record["file_name"])
        for key in ("sem_seg_file_name", "pan_seg_file_name", "segments_info"):
            record.pop(key, None)
        pixels, classes = self.augment(image, label)
        record["image"] = _to_tensor(pixels)
        record["sem_seg"] = torch.from_numpy(classes.astype(np.int64))
        return record

    def _open_label(self, record: dict[str, Any]) -> Source:
        """Classes, (H, W) uint8; checked when the file is met for the first time."""
        if "sem_seg_file_name" in record:
            label = open_source(record["sem_seg_file_name"], "L", self.cache)
            if label.file not in self._checked:
                whole, labels = label.rows(label.shape[0]), self.labels
                check_semantic(whole, label.file, labels.num_classes, labels.ignore_label)
                self._checked.add(label.file)
            return label
        ids = open_source(record["pan_seg_file_name"], IDS, self.cache)
        if ids.file not in self._checked:
            self.labels.check(ids.rows(ids.shape[0]), record)
            self._checked.add(ids.file)
        segments = {key: record[key] for key in ("pan_seg_file_name", "segments_info")}
        return Source(
            *(ids.file, "L", ids.shape),
            decode=lambda stop: self.labels.to_semantic(ids.rows(stop), segments),
        )


class TestMapper:
    """The image alone, whole; labels are the evaluators' business.

    Args:
        augmentations: Detectron2 augmentations without chance: the resize to the test size.
        image_format: channel order of the model's input, "RGB" or "BGR".
    """

    __test__ = False  # not a class of tests, whatever pytest thinks of its name

    def __init__(
        self,
        *,
        augmentations: Augmentations,
        image_format: str = "RGB",
    ) -> None:
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample.

        Returns:
            The record with "image" (3, H, W) uint8, and "height" and "width" of the file, to which
            the model scales its prediction back.

        Raises:
            DatasetError: the image cannot be read.
        """
        record = dict(record)
        image = read_image(record["file_name"], self.image_format)
        detection_utils.check_image_size(record, image)
        augmented = T.AugInput(image)
        self.augmentations(augmented)
        record["image"] = _to_tensor(augmented.image)
        return record


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    # (H, W, 3) -> (3, H, W); torch copies crosswise three times as fast as NumPy
    whole = np.require(image, requirements=("C", "W"))
    return torch.from_numpy(whole).permute(2, 0, 1).contiguous()


class TruthMaps(NamedTuple):
    """One image's maps, and where the truth knows them."""

    classes: Tensor  # (H, W) int64, `ignore_label` where unlabelled
    labelled: Tensor  # (H, W) bool
    center: Tensor  # (1, H, W) float32 heatmap, 0..1; the truth everywhere
    offset: Tensor  # (2, H, W) float32 (y, x) in pixels of the file
    has_offset: Tensor  # (H, W) bool: pixels of things


class TruthMapper:
    """Adds the truth at the size of the file to what another mapper makes of a record.

    Targets are those of training, of the whole file, without augmentation.

    A crowd is many objects in one segment. Training ignores its centre and offsets, yet the
    generator makes them: one centre in the middle, where all its pixels point. They are taken here:
    as one group the pixels are what panoptic quality excuses, and else they would join the objects
    around the crowd, whose shape they would spoil.

    Args:
        mapper: makes the sample, with "pan_seg_file_name" and "segments_info" of the record.
        num_classes: things and stuff; categories of segments must lie below.
        thing_ids: the categories that have instances.
        ignore_label: class of pixels without a label.
        gaussian_sigma: of the peak at each centre in the heatmap, in pixels of the file.
        ignore_crowd_in_semantic: crowds are unlabelled, as the model was trained.
    """

    def __init__(
        self,
        *,
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        num_classes: int,
        thing_ids: Sequence[int],
        gaussian_sigma: int,
        ignore_label: int = 255,
        ignore_crowd_in_semantic: bool = False,
    ) -> None:
        self.mapper = mapper
        self.labels = PanopticLabels(num_classes, ignore_label)
        self.generate = PanopticTargets(
            ignore_label=ignore_label,
            thing_ids=thing_ids,
            sigma=gaussian_sigma,
            ignore_stuff_in_offset=True,
            small_instance_area=0,
            small_instance_weight=1,
            ignore_crowd_in_semantic=ignore_crowd_in_semantic,
        )

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Make one sample, with "truth": `TruthMaps`.

        Raises:
            DatasetError: a file cannot be read, the label is of another size than the image, or
                holds an id that is not in `segments_info` or outside the classes.
        """
        sample = self.mapper(record)
        file = record["pan_seg_file_name"]
        panoptic = read_image(file, "RGB")
        size = (int(sample["height"]), int(sample["width"]))
        if panoptic.shape[:2] != size:
            raise DatasetError(
                f"sizes differ: {file} is {panoptic.shape[1]} x {panoptic.shape[0]}, its image "
                f"{size[1]} x {size[0]} (width x height)"
            )
        self.labels.check(panoptic, record)
        return sample | {"truth": self.maps(panoptic, record["segments_info"])}

    def maps(self, panoptic: Any, segments_info: list[dict[str, Any]]) -> TruthMaps:
        """The maps of a label, (H, W, 3) uint8 colours, and its segments."""
        ids = colors_to_ids(panoptic)
        targets = self.generate(ids, segments_info)
        classes = targets["sem_seg"]
        things = [s["id"] for s in segments_info if s["category_id"] in self.generate.thing_ids]
        return TruthMaps(
            classes=classes,
            labelled=classes != self.labels.ignore_label,
            center=targets["center"].unsqueeze(0),
            offset=targets["offset"],
            has_offset=torch.from_numpy(np.isin(ids, things)),
        )
