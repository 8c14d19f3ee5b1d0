"""A model and a loader that train in milliseconds, with a run's arguments around them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch import nn

from panoptic_dl.engine.optimizer import build_optimizer
from panoptic_dl.engine.train import train


class TinyModel(nn.Module):
    """A linear fit; returns a dict of losses like Detectron2's models."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Linear(8, 1)
        self.fail_at = -1
        self.calls = 0

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        error = self.head(self.backbone(batch)) - batch.sum(dim=1, keepdim=True)
        loss = error.square().mean()
        if self.calls == self.fail_at:
            loss = loss * float("nan")
        return {"loss_fit": loss, "loss_extra": 0.1 * loss}


class TinyLoader:
    """Endless batches (8, 4); the n-th is the same in every run."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        while True:
            yield torch.randn(8, 4, generator=generator)


class TinyEvaluation:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, model: nn.Module, folder: Path, *, source: Any, rehearsal: bool = False
    ) -> dict[str, Any]:
        self.calls += 1
        self.rehearsal = rehearsal
        return {"metrics": {"PQ": 50.0}, "num_images": 1}


def run_training(run_dir: Path, *, iterations: int = 6, **changes: Any) -> dict[str, Any]:
    """`train` on the CPU with small numbers; `changes` replace arguments or settings."""
    settings = {
        "iterations": iterations,
        "batch_size": 8,
        "num_workers": 0,
        "precision": "fp32",
        "log_period": 1,
        "checkpoint_period": 2,
        "checkpoints_kept": 2,
        "eval_period": 0,
        "eval_at_end": True,
        "fast_dev_run": False,
        "images_per_gpu": None,
        "accumulate": None,
        "auto_scale_lr": False,
        "ema": None,
        "activation_checkpointing": False,
        "channels_last": False,
        "compile": False,
    }
    arguments: dict[str, Any] = {
        "device": "cpu",
        "model": TinyModel(),
        "loader": TinyLoader(),
        "optimizer": partial(
            build_optimizer,
            optimizer=torch.optim.Adam,
            lr=0.05,
            weight_decay=0.0,
            weight_decay_norm=0.0,
            weight_decay_bias=0.0,
        ),
        "schedule": partial(WarmupPolyLR, max_iters=iterations, warmup_iters=2),
        "evaluation": TinyEvaluation(),
        "weights": None,
        "resume": False,
        "recipe": {"iterations": iterations, "batch_size": 8, "lr": 0.05},
    }
    for name, value in changes.items():
        (settings if name in settings else arguments)[name] = value
    return train(**arguments, run_dir=str(run_dir), settings=settings)
