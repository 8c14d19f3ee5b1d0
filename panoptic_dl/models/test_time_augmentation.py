"""Test-time augmentation: predictions averaged over scales of the image and its mirror image.

As in the multi-scale and flipped results of DeepLabV3+ (Chen et al., ECCV 2018) and Panoptic-
DeepLab (Cheng et al., CVPR 2020): class probabilities, center heatmaps and offsets are each
averaged at the size of the output; what follows sees one set of maps.

Shapes: K classes; H W pixels of the output.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panoptic_dl.models.batch import Sample
from panoptic_dl.models.deeplab_v3plus import DeepLabV3Plus
from panoptic_dl.models.panoptic_deeplab import ImageMaps, PanopticDeepLab
from panoptic_dl.postprocess import argmax_classes

LEAST = 1e-30  # of a probability, before its logarithm


class TestTimeAugmentation(nn.Module):
    """A model that sees each image at several scales, and mirrored; for inference only.

    Args:
        model: `PanopticDeepLab` or `DeepLabV3Plus`.
        scales: of the image as it comes from the loader, such as (0.5, 1.0, 1.5).
        flip: whether the model sees the mirror image of each scale too.

    Outputs are those of the model; "sem_seg" holds logarithms of mean probabilities.

    Raises ValueError for a model that makes no logits.
    """

    def __init__(self, model: nn.Module, *, scales: Sequence[float], flip: bool) -> None:
        super().__init__()
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
        self.views = list(itertools.product(scales, (False, True) if flip else (False,)))

    def forward(self, batched_inputs: list[Sample]) -> list[dict[str, Any]]:
        """The model's outputs for inputs of the same form."""
        outputs: list[dict[str, Any]] = []
        for sample in batched_inputs:
            height, width = sample["image"].shape[-2:]
            image = sample["image"].to(self.model.device)  # views are made there
            sample = {"height": height, "width": width} | sample | {"image": image}
            views = [self._predict(sample, scale, mirror) for scale, mirror in self.views]
            probabilities, *rest = (torch.stack(maps).mean(0) for maps in zip(*views, strict=True))
            logits = probabilities.clamp_(min=LEAST).log_()
            if isinstance(self.model, PanopticDeepLab):
                center, offset = rest
                maps = ImageMaps(argmax_classes(logits), logits, center, offset)
                outputs += self.model.merge([maps])
            else:
                outputs.append({"sem_seg": logits})
        return outputs

    def _predict(self, sample: Sample, scale: float, mirror: bool) -> tuple[Tensor, ...]:
        """Probabilities (K, H, W) and, of things, heatmap (1, H, W) and offset (2, H, W).

        Offsets are in the pixels that the model's own would be in at scale 1.
        """
        image = sample["image"]
        size = tuple(max(1, round(scale * side)) for side in image.shape[-2:])
        if size != image.shape[-2:]:
            image = F.interpolate(
                image[None].float(), size=size, mode="bilinear", align_corners=False
            )[0]
        view = sample | {"image": image.flip(-1) if mirror else image}
        images = self.model.preprocess([view])
        (image_size,) = images.image_sizes
        if isinstance(self.model, DeepLabV3Plus):
            logits = self.model.network(images.tensor)
            (output,) = self.model.postprocess(logits, [image_size], [view])
            scores = output["sem_seg"].float()
            return ((scores.flip(-1) if mirror else scores).softmax(0),)
        sem_seg, center, offset = (maps[0] for maps in self.model.network(images.tensor))
        resized = self.model.resize_maps(sem_seg, center, offset, image_size, view)
        assert resized.logits is not None
        scores, center, offset = resized.logits, resized.center, resized.offset
        if not self.model.scale_offsets:
            ratio = [a / b for a, b in zip(sample["image"].shape[-2:], size, strict=True)]
            offset = offset * offset.new_tensor(ratio).view(2, 1, 1)
        if mirror:
            scores, center, offset = scores.flip(-1), center.flip(-1), offset.flip(-1)
            offset = offset * offset.new_tensor([1.0, -1.0]).view(2, 1, 1)
        return scores.softmax(0), center, offset
