"""Test-time augmentation: predictions averaged over scales of the image and its mirror image.

As in the multi-scale and flipped figures of DeepLabV3+ (Chen et al., ECCV 2018) and Panoptic-
DeepLab (Cheng et al., CVPR 2020): probabilities of classes, centre heatmaps and offsets are each
averaged at the size of the output; what follows sees one set of maps.

Shapes: K classes; H W pixels of the output.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoptic_dl.models.batch import Sample
from panoptic_dl.models.deeplab_v3plus import DeepLabV3Plus
from panoptic_dl.models.panoptic_deeplab import ImageMaps, PanopticDeepLab
from panoptic_dl.postprocess import most_likely_class

LEAST = 1e-30  # of a probability, before its logarithm


class Averaged(nn.Module):
    """A model that looks at each image several times; for inference only.

    Args:
        model: `PanopticDeepLab` or `DeepLabV3Plus`.
        scales: of the image as it comes from the loader, such as (0.5, 1.0, 1.5).
        flip: look at the mirror image of each scale too.

    Outputs are those of the model; "sem_seg" holds logarithms of mean probabilities.

    Raises ValueError for scales that make no image, and for a model that makes no logits.
    """

    def __init__(
        self, model: PanopticDeepLab | DeepLabV3Plus, *, scales: Sequence[float], flip: bool
    ) -> None:
        super().__init__()
        if not scales or not all(scale > 0 for scale in scales):
            raise ValueError(f"evaluation.scales={list(scales)} must be positive numbers")
        if not isinstance(model, (PanopticDeepLab, DeepLabV3Plus)):
            raise ValueError(
                "evaluation.scales and evaluation.flip need a PanopticDeepLab or a DeepLabV3Plus, "
                f"not a {type(model).__name__}"
            )
        if isinstance(model, PanopticDeepLab) and not model.needs_logits:
            raise ValueError(
                "evaluation.scales and evaluation.flip average logits: leave "
                "task.model.predict_semantic=true"
            )
        self.model = model
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip

    def forward(self, batched_inputs: list[Sample]) -> list[dict[str, Any]]:
        """The model's outputs for inputs of the same form."""
        outputs: list[dict[str, Any]] = []
        for sample in batched_inputs:
            height, width = sample["image"].shape[-2:]
            sample = {"height": height, "width": width} | sample
            looks = [
                self._look(sample, scale, mirrored)
                for scale in self.scales
                for mirrored in ((False, True) if self.flip else (False,))
            ]
            probabilities, *rest = (torch.stack(maps).mean(0) for maps in zip(*looks, strict=True))
            logits = probabilities.clamp_(min=LEAST).log_()
            if isinstance(self.model, PanopticDeepLab):
                center, offset = rest
                maps = ImageMaps(most_likely_class(logits), logits, center, offset)
                outputs += self.model.merge([maps])
            else:
                outputs.append({"sem_seg": logits})
        return outputs

    def _look(self, sample: Sample, scale: float, mirrored: bool) -> tuple[Tensor, ...]:
        """Probabilities (K, H, W) and, of things, heatmap (1, H, W) and offset (2, H, W).

        Offsets are in the pixels that the model's own would be in at scale 1.
        """
        image = sample["image"]
        size = tuple(max(1, round(scale * side)) for side in image.shape[-2:])
        if size != image.shape[-2:]:
            image = F.interpolate(
                image[None].float(), size=size, mode="bilinear", align_corners=False
            )[0]
        turned = sample | {"image": image.flip(-1) if mirrored else image}
        images = self.model.preprocess([turned])
        (final,) = images.image_sizes
        found: tuple[Tensor, ...]
        if isinstance(self.model, DeepLabV3Plus):
            logits = self.model.network(images.tensor)
            (output,) = self.model.postprocess(logits, [final], [turned])
            found = (output["sem_seg"].float(),)
        else:
            classes, center, offset = (each[0] for each in self.model.network(images.tensor))
            resized = self.model.resize_maps(classes, center, offset, final, turned)
            assert resized.logits is not None
            offset = resized.offset
            if not self.model.scale_offsets:
                ratio = [a / b for a, b in zip(sample["image"].shape[-2:], size, strict=True)]
                offset = offset * offset.new_tensor(ratio).view(2, 1, 1)
            found = (resized.logits, resized.center, offset)
        if mirrored:
            found = tuple(each.flip(-1) for each in found)
            if len(found) == 3:
                scores, center, offset = found
                found = (scores, center, offset * offset.new_tensor([1.0, -1.0]).view(2, 1, 1))
        return (found[0].softmax(0), *found[1:])
