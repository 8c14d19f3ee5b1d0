"""The eight published rows: models with the recipes' values, inputs by formula, golden figures.

The values are typed from the reference recipes. Nothing here trains: weights come from
`golden.weights`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from torch import Tensor, nn

from panoptic_dl.models import (
    DeepLabV3Plus,
    PanopticDeepLab,
    instance_branch,
    semantic_branch,
    semantic_head,
)
from panoptic_dl.models.backbones import HRNet, Xception65, hrnet, xception
from tests.golden import golden

ROWS = golden.ROWS
FOLDER = Path(golden.__file__).parent

XCEPTION_PIXELS = {"pixel_mean": (128, 128, 128), "pixel_std": (128, 128, 128)}
HRNET_PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
THINGS = {"cityscapes": range(11, 19), "coco": range(80)}
NUM_CLASSES = {"cityscapes": 19, "coco": 133}
CROP = {"cityscapes": (512, 1024), "coco": (640, 640)}


def build_model(row: str, norm: str = "SyncBN") -> PanopticDeepLab | DeepLabV3Plus:
    """The model of a row, with PyTorch's random weights."""
    dataset, task, name, head = row.split("_")
    panoptic, xception = task == "panoptic", name == "xception65"
    if xception:
        features = ("res2", "res3", "res5") if panoptic else ("res2", "res5")
        backbone = Xception65(norm=norm, out_features=features)
        project_channels = (32, 64) if panoptic else (48,)
    else:
        features = ("res2", "res3", "res4", "res5")
        backbone = HRNet(width=48, norm=norm, out_features=features)
        project_channels = (32, 64, 128) if panoptic else (48, 96, 192)
    decoder = {
        "in_features": features,
        "project_channels": project_channels,
        "aspp_channels": 256,
        "aspp_dilations": (6, 12, 18) if xception else (3, 6, 9),
        "aspp_dropout": 0.1,
        "common_stride": 4,
        "norm": norm,
        "train_size": CROP[dataset],
        "use_depthwise_separable_conv": head == "dsconv",
    }
    semantic = {"decoder_dim": 256, "num_classes": NUM_CLASSES[dataset], "ignore_value": 255}
    pixels = XCEPTION_PIXELS if xception else HRNET_PIXELS
    if not panoptic:
        return DeepLabV3Plus(
            backbone=backbone, sem_seg_head=partial(semantic_head, **decoder, **semantic), **pixels
        )
    return PanopticDeepLab(
        backbone=backbone,
        sem_seg_head=partial(
            semantic_branch,
            **decoder,
            **semantic,
            head_channels=256,
            loss_top_k=1.0 if dataset == "coco" else 0.2,
        ),
        ins_embed_head=partial(instance_branch, **decoder, decoder_dim=128, head_channels=32),
        thing_ids=THINGS[dataset],
        label_divisor=1000,
        stuff_area=4096 if dataset == "coco" else 2048,
        center_threshold=0.1,
        nms_kernel=41 if dataset == "coco" else 7,
        top_k=200,
        size_divisibility=640 if dataset == "coco" else 0,
        **pixels,
    )


def load_shapes(row: str) -> dict[str, list[int]]:
    """Names and shapes of every parameter and buffer of the reference model, in its order."""
    return json.loads((FOLDER / f"{row}.state_dict.json").read_text())


def load_figures(row: str) -> dict[str, np.ndarray]:
    """What the reference model computes; the keys are explained in golden.py."""
    with np.load(FOLDER / f"{row}.npz") as figures:
        return dict(figures)


def fill_weights(model: nn.Module, row: str) -> None:
    """Give the model the reference's weights; raises if any name or shape differs."""
    values = golden.weights(row, load_shapes(row))
    model.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})


def make_sample(row: str) -> dict[str, Tensor]:
    """The row's test image with training targets as the reference recipe makes them."""
    dataset, task, *_ = row.split("_")
    panoptic, segments = golden.labels(row)
    generator = PanopticDeepLabTargetGenerator(
        ignore_label=255,
        thing_ids=THINGS[dataset],
        sigma=8 if dataset == "coco" else 10,
        ignore_stuff_in_offset=True,
        small_instance_area=4096,
        small_instance_weight=3,
        ignore_crowd_in_semantic=False,
    )
    targets = generator(panoptic, segments)
    del targets["center_points"]
    image = torch.from_numpy(golden.image(row))
    return {"image": image, **(targets if task == "panoptic" else {"sem_seg": targets["sem_seg"]})}


def seeded_model(row: str) -> PanopticDeepLab | DeepLabV3Plus:
    """The row's model, leaving PyTorch's generator where the reference's losses found it.

    The reference seeded it with 0 and made its model with PyTorch's own initial weights. Dropout
    masks depend on how many numbers that drew, so our initial weights must not draw any.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (hrnet, xception):
            patch.setattr(module, "init_weights", lambda backbone: None)
        torch.manual_seed(0)
        return build_model(row)


def freeze_statistics(model: nn.Module) -> None:
    """Training mode, with normalization in evaluation mode; ASPP's own dropout stays on."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def captured_outputs(model: nn.Module) -> Iterator[dict[str, object]]:
    """Collect what every direct child of the model returns, under its name."""
    outputs: dict[str, object] = {}
    hooks = [
        child.register_forward_hook(
            lambda _, inputs, result, name=name: outputs.__setitem__(name, result)
        )
        for name, child in model.named_children()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
