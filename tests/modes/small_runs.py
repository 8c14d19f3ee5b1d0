"""Command lines of runs that take seconds: a tiny network on small images."""

from pathlib import Path

import torch

from panoptic_dl.config import build, compose
from tests.datasets.tiny_datasets import write_coco

TINY_NETWORK = [
    "backbone=hrnet_tiny",
    "head.aspp_channels=16",
    "head.panoptic.semantic.decoder_dim=16",
    "head.panoptic.semantic.head_channels=16",
    "head.panoptic.instance.decoder_dim=16",
]
BENCHMARK = [
    *TINY_NETWORK,
    "mode=benchmark",
    "dataset=toy_cityscapes",
    "benchmark.iterations=2",
    "benchmark.image_size=[64,96]",
    "benchmark.num_things=5",
]


def small_coco(folder: Path) -> list[str]:
    """Three images of 60 x 80 pixels with persons, a crowd, stuff and void; random weights."""
    small = [
        *TINY_NETWORK,
        "dataset=coco",
        "evaluation.picture_count=0",
        "dataset.min_size_test=60",
        "dataset.max_size_test=80",
        "dataset.size_divisibility=0",
        "dataset.stuff_area=0",
        "dataset.gaussian_sigma=3",
        "train.num_workers=0",
    ]
    root = write_coco(folder, val=3)
    weights = root / "weights.pth"
    torch.manual_seed(0)
    torch.save(build(compose(small).task.model).state_dict(), weights)
    return [*small, f"dataset.root={root}", f"weights={weights}"]
