"""A model as one graph, from the bytes of images to labels: what mode=export writes.

Shapes: N images, K classes, H W pixels of the padded images, h w of the images before padding,
height width of the output.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoptic_dl.models.batch import SegmentationModel
from panoptic_dl.models.panoptic_deeplab import PanopticDeepLab
from panoptic_dl.postprocess.graph import segment


class ExportedModel(nn.Module):
    """Normalization, network and post-processing of a model, without lists of dicts.

    Args:
        model: in its evaluation mode; it is not copied, and its parts become of `dtype`.
        image_format: channel order that the model was trained with, RGB or BGR; the graph takes
            RGB.
        postprocess: whether the output are labels, or the maps of the network.
        dtype: of the network; what comes after it is computed in single precision.
    """

    def __init__(
        self,
        model: SegmentationModel,
        image_format: str,
        *,
        postprocess: bool = True,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.model, self.is_bgr = model, image_format == "BGR"
        self.is_panoptic = isinstance(model, PanopticDeepLab)
        self.postprocess, self.dtype = postprocess, dtype
        for part in model.children():  # not its buffers, the statistics of pixels
            part.to(dtype)
        if isinstance(model, PanopticDeepLab):
            model.predict_semantic = True  # the network's logits are those of full size

    def forward(
        self, images: Tensor, image_size: Tensor, output_size: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Predict a batch.

        Args:
            images: (N, 3, H, W) uint8 RGB; H and W are multiples of the model's stride.
            image_size: (2,) int64, (h, w); what lies right of and below it does not count.
            output_size: (2,) int64, (height, width) at which labels are made; with `postprocess`.

        Returns:
            With `postprocess`: "panoptic" (N, height, width) int32 of category * label_divisor +
            instance, -1 where void; "semantic" (N, height, width) uint8, int32 for more than 256
            classes; "thing_ids" (N, top_k) int32, panoptic ids of the things by rising id, then
            -1; "scores" (N, top_k) float32 of the things. Of DeepLabV3+ "semantic" alone.
            Otherwise "sem_seg" (N, K, H, W) logits, "center" (N, 1, H, W) and "offset"
            (N, 2, H, W) (y, x) in pixels, float32.
        """
        size = self._size(image_size)
        maps = [each.float() for each in self.model.network(self._normalized(images, image_size))]
        names = ("sem_seg", "center", "offset")[: len(maps)]
        if not self.postprocess:
            return dict(zip(names, maps, strict=True))
        assert output_size is not None
        wanted = self._size(output_size)
        resized = [
            F.interpolate(each[..., : size[0], : size[1]], wanted, mode="bilinear") for each in maps
        ]
        if not self.is_panoptic:
            return {"semantic": self._classes(resized[0].argmax(dim=1))}
        model: Any = self.model
        if model.scale_offsets:
            resized[2] = resized[2] * (output_size / image_size).float().view(1, 2, 1, 1)
        found = segment(
            *resized,
            thing_ids=model.thing_ids,
            label_divisor=model.label_divisor,
            stuff_area=model.stuff_area,
            threshold=model.center_threshold,
            nms_kernel=model.nms_kernel,
            top_k=model.top_k,
        )
        return {
            "panoptic": found.panoptic.int(),
            "semantic": self._classes(found.semantic),
            "thing_ids": found.thing_ids.int(),
            "scores": found.scores,
        }

    def _size(self, size: Tensor) -> tuple[int, int]:
        height, width = size.tolist()
        torch._check(height > 0)
        torch._check(width > 0)
        return height, width

    def _normalized(self, images: Tensor, image_size: Tensor) -> Tensor:
        """As `SegmentationModel.preprocess`: padding is 0 after the normalization."""
        if self.is_bgr:
            images = images.flip(1)
        rows = torch.arange(images.shape[2], device=images.device) < image_size[0]
        columns = torch.arange(images.shape[3], device=images.device) < image_size[1]
        normalized = (images.float() - self.model.pixel_mean) / self.model.pixel_std
        return normalized.where(rows[:, None] & columns, 0.0).to(self.dtype)

    def _classes(self, labels: Tensor) -> Tensor:
        predictor: Any = self.model.get_submodule("sem_seg_head.predictor")
        num_classes = predictor.out_channels
        return labels.to(torch.uint8) if num_classes <= 256 else labels.int()
