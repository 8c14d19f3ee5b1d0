"""From Detectron2's list of dicts to padded tensors, with checks that name what is wrong.

Shapes: N batch, C channels, H W pixels (of the padded batch).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor

# What Detectron2's mapper makes of one image: "image", "height", "width", "file_name", training
# targets.
Sample = dict[str, Any]


def padding_multiple(backbone: Backbone, size_divisibility: int = 0) -> int:
    """Batches are padded to multiples of this: `size_divisibility`, or if 0 the backbone's.

    Raises ValueError if features would not have the same size as the padded image divided by their
    stride.
    """
    stride = _coarsest_stride(backbone)
    if size_divisibility < 0 or size_divisibility % stride:
        raise ValueError(
            f"size_divisibility={size_divisibility} must be 0 (the backbone's own) or a multiple "
            f"of the backbone's coarsest stride, {stride}"
        )
    return size_divisibility or backbone.size_divisibility or stride


def _coarsest_stride(backbone: Backbone) -> int:
    """The largest stride among the backbone's features."""
    return max(shape.stride for shape in backbone.output_shape().values())


def check_images(samples: Sequence[Sample], num_channels: int) -> None:
    """Raise ValueError unless every sample has an image (`num_channels`, H, W) with pixels."""
    if not samples:
        raise ValueError("the batch is empty: pass a list with at least one dict")
    for index, sample in enumerate(samples):
        if "image" not in sample:
            raise ValueError(f'{_name(index, sample)} has no "image", only {sorted(sample)}')
        shape = tuple(sample["image"].shape)
        if len(shape) != 3 or shape[0] != num_channels:
            raise ValueError(
                f"{_name(index, sample)} has shape {shape}: expected ({num_channels}, H, W), "
                "one channel for each number of pixel_mean"
            )
        if not min(shape[1:]):
            raise ValueError(
                f"{_name(index, sample)} is {shape[1]} x {shape[2]} pixels: leave it out, or "
                "enlarge it; was a long strip resized to nothing?"
            )


def check_targets(samples: Sequence[Sample], keys: Iterable[str]) -> None:
    """Raise ValueError unless every sample has every one of `keys`, of the size of its image."""
    keys = tuple(keys)
    for index, sample in enumerate(samples):
        missing = [key for key in keys if key not in sample]
        if missing:
            raise ValueError(
                f"{_name(index, sample)} has no {', '.join(missing)}: training needs "
                f"{', '.join(keys)} (for predictions call eval() on the model)"
            )
        size = tuple(sample["image"].shape[-2:])
        for key in keys:
            if tuple(sample[key].shape[-2:]) != size:
                raise ValueError(
                    f"{_name(index, sample)} is {size[0]} x {size[1]} pixels, but its {key} has "
                    f"shape {tuple(sample[key].shape)}: make the targets from the same crop"
                )


def stack_images(model: Any, samples: Sequence[Sample]) -> ImageList:
    """Normalize the images, pad them with zeros at the bottom and right, and stack them.

    In training, a single image whose coarsest feature is one pixel gets a second one, because batch
    normalization needs two values per channel.

    Args:
        model: has `pixel_mean` and `pixel_std`, (C, 1, 1) in units of the image, a `backbone`, and
            `size_divisibility`, of which H and W become multiples (see `padding_multiple`).

    Returns:
        The (N, C, H, W) tensor, and the sizes (H, W) before padding.
    """
    mean, std, backbone = model.pixel_mean, model.pixel_std, model.backbone
    images = [(sample["image"].to(mean.device) - mean) / std for sample in samples]
    constraints = {**backbone.padding_constraints, "size_divisibility": model.size_divisibility}
    stacked = ImageList.from_tensors(images, padding_constraints=constraints)
    num, _, height, width = stacked.tensor.shape
    if model.training and num == 1 and max(height, width) <= _coarsest_stride(backbone):
        stacked.tensor = F.pad(stacked.tensor, (0, width))
    return stacked


def stack_targets(
    samples: Sequence[Sample], key: str, images: ImageList, *, fill: float = 0
) -> Tensor:
    """Pad one kind of target with `fill` to the size of `images`, and stack it: (N, ..., H, W)."""
    height, width = images.tensor.shape[-2:]
    targets = []
    for sample in samples:
        target = sample[key].to(images.device)
        padding = (0, width - target.shape[-1], 0, height - target.shape[-2])
        targets.append(F.pad(target, padding, value=fill))
    return torch.stack(targets)


def _name(index: int, sample: Sample) -> str:
    """Name a sample in an error message."""
    file_name = sample.get("file_name")
    return f"image {index} of the batch" + (f" ({file_name})" if file_name else "")
