"""What meta-architectures share: padded batches of Detectron2's list of dicts, the forward pass.

What is wrong with a sample is named. Shapes: N batch, C channels, H W pixels of the padded batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from panoptic_dl.models.batch_norm import convert_sync_batch_norm

# What Detectron2's mapper makes of one image: "image", "height", "width", "file_name", training
# targets.
Sample = dict[str, Any]


class SegmentationModel(nn.Module):
    """A backbone, heads, and the statistics of images; subclasses say what becomes of features.

    Args:
        backbone: Detectron2 backbone.
        heads: by their names in the model; each is called as
            `head(input_shape=backbone.output_shape())`.
        pixel_mean, pixel_std: one number per channel of the image, in its units; None: those of the
            backbone, which has them as attributes.
        size_divisibility: see `padding_multiple`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    backbone: Backbone

    def __init__(
        self,
        *,
        backbone: Backbone,
        heads: dict[str, Any],
        pixel_mean: Sequence[float] | None,
        pixel_std: Sequence[float] | None,
        size_divisibility: int = 0,
    ):
        super().__init__()
        self.backbone = backbone
        for name, head in heads.items():
            self.add_module(name, head(input_shape=backbone.output_shape()))
        # Not in checkpoints, as in Detectron2: they belong to the configuration.
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            if values is None and (values := getattr(backbone, name, None)) is None:
                raise ValueError(f"{type(backbone).__name__} has no {name}: give one")
            statistics = torch.tensor([float(value) for value in values]).view(-1, 1, 1)
            self.register_buffer(name, statistics, persistent=False)
        self.size_divisibility = padding_multiple(backbone, size_divisibility)
        convert_sync_batch_norm(self)

    @property
    def device(self) -> torch.device:
        """Where images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[Sample]) -> Any:
        """Losses in training, predictions otherwise.

        Args:
            batched_inputs: one dict per image, with
                "image": (C, h, w) in the units of `pixel_mean`, of any size; sizes may differ
                    in a batch;
                "height", "width": size of the prediction, by default that of the image;
                in training the targets of the class, of the image's size.

        Returns:
            In training {name: scalar loss}; otherwise one dict per image.

        Raises ValueError naming an image of the wrong shape.
        """
        images = self.preprocess(batched_inputs)
        if self.training:
            return self.compute_losses(self.backbone(images.tensor), batched_inputs, images)
        return self.postprocess(self.network(images.tensor), images.image_sizes, batched_inputs)

    def preprocess(self, samples: Sequence[Sample]) -> ImageList:
        """Move images to the model's device, normalize, pad at the bottom and right, and stack.

        In training, a single image whose coarsest feature is one pixel gets a second one, because
        batch normalization needs two values per channel.

        Returns:
            The (N, C, H, W) tensor, and the sizes (H, W) before padding.
        """
        _check_images(samples, num_channels=len(self.pixel_mean))
        mean, std, backbone = self.pixel_mean, self.pixel_std, self.backbone
        images = [(sample["image"].to(mean.device) - mean) / std for sample in samples]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        square = backbone.padding_constraints.get("square_size", 0)
        height, width = (
            math.ceil((square or max(sides)) / self.size_divisibility) * self.size_divisibility
            for sides in zip(*sizes, strict=True)
        )
        batch = images[0].new_zeros(len(images), len(mean), height, width)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
        if self.training and len(images) == 1 and max(height, width) <= _coarsest_stride(backbone):
            batch = F.pad(batch, (0, width))
        return ImageList(batch, sizes)

    def compute_losses(
        self, features: dict[str, Tensor], batched_inputs: list[Sample], images: ImageList
    ) -> dict[str, Tensor]:
        """The weighted losses of all heads, each a scalar."""
        raise NotImplementedError

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Backbone and heads on (N, C, H, W) normalized images."""
        raise NotImplementedError

    def postprocess(
        self,
        maps: Any,
        image_sizes: Sequence[tuple[int, int]],
        batched_inputs: list[Sample],
    ) -> list[dict[str, Any]]:
        """From what `network` returns to the model's output, one dict per image.

        `image_sizes` are (h, w) before padding.
        """
        raise NotImplementedError


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


def _check_images(samples: Sequence[Sample], num_channels: int) -> None:
    """Raise ValueError unless every image is (`num_channels`, H, W) with pixels."""
    for index, sample in enumerate(samples):
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
