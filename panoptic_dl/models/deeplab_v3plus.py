"""DeepLabV3+ (Chen et al. 2018) with Detectron2's `DeepLabV3PlusHead`.

Shapes: C channels, K classes, H W pixels of the padded batch; height, width pixels of the output.
"""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from panoptic_dl.models.batch import Sample, SegmentationModel, stack_targets
from panoptic_dl.postprocess.semantic import resize


class DeepLabV3Plus(SegmentationModel):
    """Semantic classes. It computes what Detectron2's `SemanticSegmentor` does, for any image size.

    In training "sem_seg" is (h, w) int64 labels, and the loss "loss_sem_seg". The output has
    "sem_seg", (K, height, width) logits, perhaps a view of the padded batch.

    Args:
        backbone: Detectron2 backbone.
        sem_seg_head: called as `sem_seg_head(input_shape=backbone.output_shape())`, such as a
            partial `panoptic_dl.models.heads.semantic_head`.
        pixel_mean, pixel_std: see `SegmentationModel`.
    """

    sem_seg_head: Any

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: Callable[..., nn.Module],
        pixel_mean: Sequence[float] | None,
        pixel_std: Sequence[float] | None,
    ):
        super().__init__(
            backbone=backbone,
            heads={"sem_seg_head": sem_seg_head},
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )

    def compute_losses(
        self, features: dict[str, Tensor], batched_inputs: list[Sample], images: ImageList
    ) -> dict[str, Tensor]:
        unlabelled = self.sem_seg_head.ignore_value
        labels = stack_targets(batched_inputs, "sem_seg", images, fill=unlabelled)
        losses: dict[str, Tensor] = self.sem_seg_head(features, labels)[1]
        return losses

    def network(self, images: Tensor) -> tuple[Tensor]:
        """(N, K, H, W) class logits of (N, C, H, W) normalized images, as the only element."""
        logits, _ = self.sem_seg_head(self.backbone(images))
        return (logits,)

    def postprocess(
        self,
        maps: tuple[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        batched_inputs: list[Sample],
    ) -> list[dict[str, Any]]:
        """Cut off the padding and scale to the output."""
        outputs = []
        for logits, size, sample in zip(*maps, image_sizes, batched_inputs, strict=True):
            height, width = int(sample.get("height", size[0])), int(sample.get("width", size[1]))
            outputs.append({"sem_seg": resize(logits, size, height, width)})
        return outputs
