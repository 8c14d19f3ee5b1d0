"""Panoptic-DeepLab (Cheng et al., CVPR 2020) around Detectron2's heads.

Shapes: N batch, C channels, K classes, H W pixels of the padded batch; h w of an image.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from panoptic_dl.core.images import VOID_LABEL
from panoptic_dl.models.batch import Sample, SegmentationModel, stack_targets
from panoptic_dl.postprocess import get_panoptic_segmentations, instances_from_panoptic
from panoptic_dl.postprocess.semantic import argmax_classes, argmax_upsampled, resize, upsample


class ImageMaps(NamedTuple):
    """What post-processing takes of one image, at the size of the output."""

    classes: Tensor  # (H, W) int64
    logits: Tensor | None  # (K, H, W), or None where nothing needs them
    center: Tensor  # (1, H, W) heatmap
    offset: Tensor  # (2, H, W) (y, x) in pixels


class PanopticDeepLab(SegmentationModel):
    """Semantic classes, object centers and pixel offsets to them, merged to a panoptic map.

    Training needs "sem_seg" (h, w) int64, "center" (h, w), "center_weights" (1, h, w), "offset"
    (2, h, w) in pixels (y, x), "offset_weights" (1, h, w), and takes "sem_seg_weights" (h, w); the
    losses are "loss_sem_seg", "loss_center", "loss_offset". The output has
        "sem_seg": (K, height, width) logits, perhaps a view of the padded batch;
        "classes": (height, width) int64, of the largest logits;
        "panoptic_seg": (map, None), where map is (height, width) int64 of
            category * label_divisor + instance, -1 where void;
        "instances": `Instances`, perhaps none (see `instances_from_panoptic`).

    Args:
        backbone: Detectron2 backbone.
        sem_seg_head: called as `sem_seg_head(input_shape=backbone.output_shape())`, such as a
            partial `panoptic_dl.models.heads.semantic_branch`.
        ins_embed_head: likewise, such as a partial `panoptic_dl.models.heads.instance_branch`.
        pixel_mean, pixel_std: see `SegmentationModel`.
        thing_ids: contiguous category ids of the things.
        label_divisor: panoptic id = category id * label_divisor + instance number.
        stuff_area: stuff with fewer pixels in an image becomes void.
        center_threshold: lowest heatmap value of a center.
        nms_kernel: side in pixels (odd) of the window in which only the largest center survives.
        top_k: most centers in an image.
        size_divisibility: images are padded to multiples of it; 0 takes the backbone's.
        scale_offsets: whether offsets grow with the prediction when it is resized to "height" and
            "width". False leaves them in pixels of the network's input, as Detectron2 does and the
            published metrics need; where the two sizes differ much, only True groups rightly.
        predict_semantic, predict_instances: whether the output has "sem_seg" and "instances". With
            neither, no logits of full size are made.

    Raises ValueError for numbers that make no model.
    """

    sem_seg_head: Any
    ins_embed_head: Any
    # Can be replaced by a function of the same arguments, as mode=benchmark does to measure
    # Detectron2's.
    segment = staticmethod(get_panoptic_segmentations)

    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: Callable[..., nn.Module],
        ins_embed_head: Callable[..., nn.Module],
        pixel_mean: Sequence[float] | None,
        pixel_std: Sequence[float] | None,
        thing_ids: Iterable[int],
        stuff_area: int,
        nms_kernel: int,
        label_divisor: int = 1000,
        center_threshold: float = 0.1,
        top_k: int = 200,
        size_divisibility: int = 0,
        scale_offsets: bool = False,
        predict_semantic: bool = True,
        predict_instances: bool = True,
    ):
        super().__init__(
            backbone=backbone,
            heads={"sem_seg_head": sem_seg_head, "ins_embed_head": ins_embed_head},
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
        )
        if nms_kernel < 1 or nms_kernel % 2 == 0:
            raise ValueError(f"nms_kernel={nms_kernel} must be odd, so that a window has a middle")
        if not 1 <= top_k < label_divisor:
            raise ValueError(
                f"top_k={top_k} must be at least 1 and below label_divisor={label_divisor}, or "
                "instance numbers would run into the next category"
            )
        self.thing_ids = tuple(int(category) for category in thing_ids)
        self.label_divisor = label_divisor
        self.stuff_area = stuff_area
        self.center_threshold = center_threshold
        self.nms_kernel = nms_kernel
        self.top_k = top_k
        self.scale_offsets = scale_offsets
        self.predict_semantic = predict_semantic
        self.predict_instances = predict_instances

    def compute_losses(
        self, features: dict[str, Tensor], batched_inputs: list[Sample], images: ImageList
    ) -> dict[str, Tensor]:
        unlabelled = self.sem_seg_head.ignore_value
        sem_seg = stack_targets(batched_inputs, "sem_seg", images, fill=unlabelled)
        sem_seg_weights = None
        if any("sem_seg_weights" in sample for sample in batched_inputs):
            sem_seg_weights = stack_targets(batched_inputs, "sem_seg_weights", images)
        _, losses = self.sem_seg_head(features, sem_seg, sem_seg_weights)
        _, _, center_losses, offset_losses = self.ins_embed_head(
            features,
            stack_targets(batched_inputs, "center", images).unsqueeze(1),
            stack_targets(batched_inputs, "center_weights", images),
            stack_targets(batched_inputs, "offset", images),
            stack_targets(batched_inputs, "offset_weights", images),
        )
        return {**losses, **center_losses, **offset_losses}

    @property
    def needs_logits(self) -> bool:
        """Whether class logits of full size are part of the output, or of the instances' scores."""
        return self.predict_semantic or self.predict_instances

    def network(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Backbone and heads on (N, C, H, W) normalized images.

        Returns (N, K, H, W) class logits, (N, 1, H, W) center heatmaps and (N, 2, H, W) offsets
        (y, x) in pixels of the network's input. Where no logits are needed they keep the stride of
        the head, and are upsampled on the way to classes.
        """
        features = self.backbone(images)
        if self.needs_logits:
            sem_seg, _ = self.sem_seg_head(features)
        else:
            sem_seg = self.sem_seg_head.layers(features)
        center, offset, _, _ = self.ins_embed_head(features)
        return sem_seg, center, offset

    def postprocess(
        self,
        maps: tuple[Tensor, Tensor, Tensor],
        image_sizes: Sequence[tuple[int, int]],
        batched_inputs: list[Sample],
    ) -> list[dict[str, Any]]:
        per_image = zip(*maps, image_sizes, batched_inputs, strict=True)
        return self.merge([self.resize_maps(*inputs) for inputs in per_image])

    def resize_maps(
        self,
        sem_seg: Tensor,
        center: Tensor,
        offset: Tensor,
        image_size: tuple[int, int],
        sample: Sample,
    ) -> ImageMaps:
        """One image's maps, as `network` gives them, at the size of the output.

        `image_size` is (h, w) of the image before padding.
        """
        height = int(sample.get("height", image_size[0]))
        width = int(sample.get("width", image_size[1]))
        # float: coordinates of large images do not fit into half precision
        sem_seg, center, offset = sem_seg.float(), center.float(), offset.float()
        stride = None if self.needs_logits else self.sem_seg_head.common_stride
        if stride and image_size == (height, width):
            logits = None
            classes = argmax_upsampled(sem_seg, stride)[:height, :width]
        else:
            if stride:
                sem_seg = upsample(sem_seg, stride)
            logits = resize(sem_seg, image_size, height, width)
            classes = argmax_classes(logits)
        center = resize(center, image_size, height, width)
        offset = resize(offset, image_size, height, width)
        if self.scale_offsets:
            offset = torch.stack(
                (offset[0] * (height / image_size[0]), offset[1] * (width / image_size[1]))
            )
        return ImageMaps(classes, logits, center, offset)

    def merge(self, images: Sequence[ImageMaps]) -> list[dict[str, Any]]:
        """Group pixels, and describe the instances; one dict per image."""
        segmentations = self.segment(
            [maps.classes.unsqueeze(0) for maps in images],
            [maps.center for maps in images],
            [maps.offset for maps in images],
            thing_ids=self.thing_ids,
            label_divisor=self.label_divisor,
            stuff_area=self.stuff_area,
            void_label=VOID_LABEL,
            threshold=self.center_threshold,
            nms_kernel=self.nms_kernel,
            top_k=self.top_k,
        )
        outputs = []
        for maps, (panoptic, _) in zip(images, segmentations, strict=True):
            output: dict[str, Any] = {"panoptic_seg": (panoptic[0], None)}
            if self.predict_semantic:
                output |= {"sem_seg": maps.logits, "classes": maps.classes}
            if self.predict_instances:
                assert maps.logits is not None
                output["instances"] = instances_from_panoptic(
                    panoptic[0],
                    maps.logits,
                    maps.center,
                    thing_ids=self.thing_ids,
                    label_divisor=self.label_divisor,
                )
            outputs.append(output)
        return outputs
