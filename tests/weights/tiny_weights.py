"""A model of a few values, and what tests write around it."""

from typing import Any

import torch
from torch import nn

from panoptic_dl.weights.files import Provenance


class Tiny(nn.Module):
    """A backbone, a head, and statistics of pixels as our models keep them."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, 2)
        self.register_buffer("pixel_mean", torch.full((3, 1, 1), 128.0), persistent=False)
        self.register_buffer("pixel_std", torch.full((3, 1, 1), 64.0), persistent=False)


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same values."""
    own, others = a.state_dict(), b.state_dict()
    return own.keys() == others.keys() and all(torch.equal(v, others[n]) for n, v in own.items())


def provenance(**changes: Any) -> Provenance:
    """That of an invented file."""
    values: dict[str, Any] = {
        "source_file": "source.pth",
        "source_sha256": "ab" * 32,
        "source_size": 1000,
        "date": "2026-01-01T00:00:00+00:00",
        "licence": "Apache-2.0",
        "converter": "panoptic-dl 0.1.0",
        "origin": "invented",
        "architecture": "tiny",
        "pixel_mean": (128.0, 128.0, 128.0),
        "pixel_std": (64.0, 64.0, 64.0),
        "image_format": "RGB",
        "percent": 100.0,
    }
    return Provenance(**(values | changes))
