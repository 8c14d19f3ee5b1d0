"""What a model would predict if some of its branches told the truth.

The network's maps of an image are exchanged for true ones, branch by branch, before they are merged
(the oracle experiments of Cheng et al., arXiv:1910.04751 and 1911.10194).

Legend: H W pixels of the output.
"""

from collections.abc import Collection
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor

from panoptic_dl.models.panoptic_deeplab import VOID, ImageMaps, PanopticDeepLab

BRANCHES = ("semantic", "center", "offset")
# The model itself, then one branch at a time, two, and all.
COMBINATIONS = tuple(
    branches for count in range(len(BRANCHES) + 1) for branches in combinations(BRANCHES, count)
)
UNLABELLED = ("predicted", "void")


class Truth(Protocol):
    """True maps of an image; see `panoptic_dl.data.truth_maps`."""

    @property
    def classes(self) -> Tensor: ...  # (H, W) int64, no class where unlabelled
    @property
    def labelled(self) -> Tensor: ...  # (H, W) bool
    @property
    def center(self) -> Tensor: ...  # (1, H, W)
    @property
    def offset(self) -> Tensor: ...  # (2, H, W)
    @property
    def has_offset(self) -> Tensor: ...  # (H, W) bool


def replace(
    maps: ImageMaps, truth: Truth, branches: Collection[str], *, unlabelled: str = "predicted"
) -> ImageMaps:
    """Exchange the maps of `branches` (of `BRANCHES`) for true ones; `maps` stay as they are.

    Semantic truth is taken where there is a label; elsewhere the predicted class stays, or with
    `unlabelled="void"` is the truth's number of no class. The truth has a heatmap everywhere, and
    offsets for things; elsewhere the predicted offset stays, for pixels that the model takes for
    things.
    """
    classes, center, offset = maps.classes, maps.center, maps.offset
    if "semantic" in branches:
        known = truth.labelled if unlabelled == "predicted" else torch.ones_like(truth.labelled)
        classes = torch.where(known, truth.classes, classes)
    if "center" in branches:
        center = truth.center
    if "offset" in branches:
        offset = torch.where(truth.has_offset, truth.offset, offset)
    return ImageMaps(classes, None, center, offset)


def predictions(
    model: PanopticDeepLab, maps: ImageMaps, truth: Truth, *, unlabelled: str = "predicted"
) -> list[dict[str, Any]]:
    """The model's output for one image, for each of `COMBINATIONS`: "panoptic_seg" alone.

    Args:
        model: predicts neither logits nor instances.
        maps: as `model.resize_maps` gives them.
        truth: of the same size and device.
        unlabelled: what pixels without label are where semantic truth is used: "predicted" keeps
            the class, with which they join objects and vote for their class; "void" has none.
    """
    images = [replace(maps, truth, b, unlabelled=unlabelled) for b in COMBINATIONS]
    outputs = model.merge(images)
    if unlabelled == "void":
        for branches, output in zip(COMBINATIONS, outputs, strict=True):
            if "semantic" in branches:
                panoptic, _ = output["panoptic_seg"]
                output["panoptic_seg"] = (panoptic.masked_fill(~truth.labelled, VOID), None)
    return outputs
