"""Models and batches that are quick on a CPU, for tests of behaviour rather than figures."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone
from torch import Tensor

from panoptic_dl.models import (
    DeepLabV3Plus,
    PanopticDeepLab,
    instance_branch,
    semantic_branch,
    semantic_head,
)
from panoptic_dl.models.activation_checkpointing import recompute_activations
from panoptic_dl.models.backbones import HRNet, Xception65, xception

NUM_CLASSES = 5
THINGS = (3, 4)
TINY_HRNET = {"width": 8, "num_modules": (1, 1, 1, 1), "num_blocks": 1, "stem_channels": 8}


def build_backbone(name: str = "hrnet", norm: str = "SyncBN") -> Backbone:
    """A short backbone: "hrnet" or "xception", or "xception32" with output stride 32."""
    if name == "hrnet":
        return HRNet(**TINY_HRNET, norm=norm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xception, "NUM_MIDDLE_BLOCKS", 1)
        return Xception65(norm=norm, output_stride=32 if name == "xception32" else 16)


def decoder_arguments(backbone: Backbone, **changes: Any) -> dict[str, Any]:
    """What all heads need, narrow."""
    features = tuple(backbone.output_shape())
    return {
        "in_features": features,
        "project_channels": (8,) * (len(features) - 1),
        "aspp_channels": 16,
        "aspp_dilations": (3, 6, 9),
        "decoder_dim": 16,
        "norm": "SyncBN",
        "train_size": (512, 1024),
        **changes,
    }


def build_panoptic(
    backbone: Backbone | None = None, *, head: dict[str, Any] | None = None, **changes: Any
) -> PanopticDeepLab:
    """A narrow Panoptic-DeepLab; `head` changes both heads' arguments, `changes` the model's."""
    backbone = backbone or build_backbone()
    decoder = decoder_arguments(backbone, **(head or {}))
    arguments = {
        "pixel_mean": (128, 128, 128),
        "pixel_std": (64, 64, 64),
        "thing_ids": THINGS,
        "stuff_area": 1,
        "nms_kernel": 7,
        **changes,
    }
    return PanopticDeepLab(
        backbone=backbone,
        sem_seg_head=partial(semantic_branch, **decoder, num_classes=NUM_CLASSES, head_channels=16),
        ins_embed_head=partial(instance_branch, **decoder, head_channels=8),
        **arguments,
    )


def build_semantic(backbone: Backbone | None = None, **changes: Any) -> DeepLabV3Plus:
    """A narrow DeepLabV3+; `changes` the head's arguments."""
    backbone = backbone or build_backbone()
    decoder = decoder_arguments(backbone, **changes)
    return DeepLabV3Plus(
        backbone=backbone,
        sem_seg_head=partial(semantic_head, **decoder, num_classes=NUM_CLASSES),
        pixel_mean=(128, 128, 128),
        pixel_std=(64, 64, 64),
    )


def make_sample(height: int, width: int, seed: int = 0) -> dict[str, Tensor]:
    """Noise as image and targets for both tasks."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    return {
        "image": 255 * noise(3, height, width),
        "sem_seg": (NUM_CLASSES * noise(height, width)).long(),
        "sem_seg_weights": 1 + noise(height, width),
        "center": noise(height, width),
        "center_weights": torch.ones(1, height, width),
        "offset": 20 * noise(2, height, width) - 10,
        "offset_weights": torch.ones(1, height, width),
    }


def train_both(build, steps=3, seed=3):
    """Two models after the same steps, the second with recomputed activations, and their losses."""
    plain = build()
    changed = copy.deepcopy(plain)
    assert recompute_activations(changed.backbone) > 0
    losses = []
    for model in (plain, changed):
        torch.manual_seed(seed)  # for the dropout of the ASPP, and of the backbone below
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        model.train()
        batch = [make_sample(64, 64, seed=seed), make_sample(64, 96, seed=seed + 10)]
        for _ in range(steps):
            optimizer.zero_grad()
            parts = model(batch)
            sum(parts.values()).backward()
            optimizer.step()
            losses.append(parts)
    return plain, changed, losses[:steps], losses[steps:]


def require_same(plain, changed):
    """Same names, and values and gradients to the last bit."""
    assert list(changed.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, changed.state_dict()[name]), name
    for name, parameter in plain.named_parameters():
        other = changed.get_parameter(name)
        assert torch.equal(parameter.grad, other.grad), name
