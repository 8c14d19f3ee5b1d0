"""What a network without fault would say of an image: the labels, in the model's own formats.

Shapes: H W pixels of the image file.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.reading import PanopticLabels, read_image
from panoptic_dl.data.segment_numbers import colors_to_ids
from panoptic_dl.data.targets import PanopticTargets


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
