"""DeepLabV3+ (Chen et al. 2018) through Detectron2's `SemanticSegmentor` and `DeepLabV3PlusHead`.

Shapes: C channels, K classes, H W pixels of the padded batch; height, width pixels of the output.
"""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.modeling import Backbone, SemanticSegmentor
from detectron2.structures import ImageList
from torch import Tensor, nn

from panoptic_dl.models.batch import (
    Sample,
    check_images,
    check_targets,
    padding_multiple,
    stack_images,
    stack_targets,
)
from panoptic_dl.models.batch_norm import convert_sync_batch_norm
from panoptic_dl.postprocess.semantic import resize


class DeepLabV3Plus(SemanticSegmentor):
    """Detectron2's semantic segmentor, for any image size, building its head from its backbone.

    Args:
        backbone: Detectron2 backbone.
        sem_seg_head: called as `sem_seg_head(input_shape=backbone.output_shape())`, such as a
            partial `panoptic_dl.models.heads.semantic_head`.
        pixel_mean, pixel_std: one number per channel of the image, in its units.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: Callable[..., nn.Module],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        super().__init__(
            backbone=backbone,
            sem_seg_head=sem_seg_head(input_shape=backbone.output_shape()),
            pixel_mean=tuple(float(value) for value in pixel_mean),
            pixel_std=tuple(float(value) for value in pixel_std),
        )
        self.size_divisibility = padding_multiple(backbone)
        convert_sync_batch_norm(self)

    def forward(self, batched_inputs: list[Sample]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, predictions otherwise.

        Args:
            batched_inputs: one dict per image, with
                "image": (C, h, w) in the units of `pixel_mean`, of any size; sizes may differ
                    in a batch;
                "height", "width": size of the prediction, by default that of the image;
                in training "sem_seg": (h, w) int64 labels.

        Returns:
            in training {"loss_sem_seg": scalar}; otherwise one dict per image with
                "sem_seg": (K, height, width) logits, perhaps a view of the padded batch.

        Raises ValueError naming the image and the key if an input is missing or has the wrong
        shape.
        """
        check_images(batched_inputs, num_channels=len(self.pixel_mean))
        if self.training:
            check_targets(batched_inputs, ["sem_seg"])
        images = self.preprocess(batched_inputs)
        if self.training:
            unlabelled: Any = self.sem_seg_head.ignore_value
            labels = stack_targets(batched_inputs, "sem_seg", images, fill=unlabelled)
            _, losses = self.sem_seg_head(self.backbone(images.tensor), labels)
            return losses
        return self.postprocess(self.network(images.tensor), images.image_sizes, batched_inputs)

    def preprocess(self, batched_inputs: list[Sample]) -> ImageList:
        """Move images to the model's device, normalize, pad and stack them: (N, C, H, W)."""
        return stack_images(self, batched_inputs)

    def network(self, images: Tensor) -> tuple[Tensor]:
        """(N, K, H, W) class logits of (N, C, H, W) normalized images, as the only element."""
        logits, _ = self.sem_seg_head(self.backbone(images))
        return (logits,)

    def postprocess(
        self,
        maps: tuple[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        batched_inputs: list[Sample],
    ) -> list[dict[str, Tensor]]:
        """Cut off the padding and scale to the output, one dict per image.

        `image_sizes` are (h, w) before padding.
        """
        outputs = []
        for logits, size, sample in zip(*maps, image_sizes, batched_inputs, strict=True):
            height, width = int(sample.get("height", size[0])), int(sample.get("width", size[1]))
            outputs.append({"sem_seg": resize(logits, size, height, width)})
        return outputs
