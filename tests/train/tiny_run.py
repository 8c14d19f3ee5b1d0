"""A run of `train` that takes milliseconds: model, loader, settings, and what it leaves."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from torch import nn

from panoptic_dl.core.settings import TrainSettings
from panoptic_dl.data.loader import TrainLoader
from panoptic_dl.train.train import build_optimizer, train


class TinyModel(nn.Module):
    """A linear fit with dropout; returns a dict of losses like Detectron2's models.

    `poison`: image ids whose loss is not a number. `fail_at`: the call whose loss is none.
    """

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
        self.head = nn.Linear(8, 1)
        self.fail_at = -1
        self.calls = 0
        self.poison = set(poison)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.calls += 1
        numbers = torch.stack([sample["numbers"] for sample in batch])
        error = self.head(self.backbone(numbers)) - numbers.sum(dim=1, keepdim=True)
        loss = error.square().mean()
        if self.calls == self.fail_at or self.poison & {sample["image_id"] for sample in batch}:
            loss = loss * float("nan")
        return {"loss_fit": loss, "loss_extra": 0.1 * loss}


class Partly(TinyModel):
    """Its layer `fc` takes part in the loss of some calls; `frozen`, which is frozen, in none."""

    def __init__(self, calls: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.fc, self.frozen = nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False)
        self.with_fc = calls

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        losses = super().forward(batch)
        if self.calls in self.with_fc:
            losses["loss_fit"] = self.fc(losses["loss_fit"].reshape(1, 1)).square().sum()
        return losses


RECORDS = [{"image_id": i, "file_name": f"{i}.png", "width": 2, "height": 1} for i in range(20)]


def tiny_sample(record: dict[str, Any]) -> dict[str, Any]:
    """Four numbers that depend on the image and on the augmentation's randomness."""
    drawn = np.random.randn(4) + record["image_id"] / 20  # noqa: NPY002
    return record | {"numbers": torch.as_tensor(drawn, dtype=torch.float32)}


def tiny_loader(**changes: Any) -> TrainLoader:
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 0, "seed": 1} | changes
    return TrainLoader(**{"records": RECORDS, "mapper": tiny_sample} | options)


SCHEDULE = partial(WarmupPolyLR, max_iters=6, warmup_iters=2)


class TinyEvaluation:
    """Counts how often it is asked; the n-th answer is the n-th figure, the last one repeats."""

    def __init__(self, *figures: float, num_images: int = 1) -> None:
        self.calls, self.num_images = 0, num_images
        self.figures = figures or (50.0,)

    def __call__(
        self, model: nn.Module, folder: Path, *, source: Any, limit: int | None = None
    ) -> dict[str, Any]:
        self.calls += 1
        self.limit = limit
        figure = self.figures[min(self.calls, len(self.figures)) - 1]
        return {"metrics": {"PQ": figure}, "num_images": self.num_images}


SETTINGS: dict[str, Any] = {
    "iterations": 6,
    "batch_size": 8,
    "num_workers": 0,
    "precision": "fp32",
    "clip_norm": None,
    "overfit_batches": 0,
    "on_nonfinite": "stop",
    "max_nonfinite_skips": 2,
    "log_period": 1,
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


def train_settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**(SETTINGS | changes))


def run_training(run_dir: Path, *, iterations: int = 6, **changes: Any) -> dict[str, Any]:
    """`train` on the CPU with small numbers; `changes` replace arguments or settings."""
    settings = SETTINGS | {"iterations": iterations}
    checkpoint = {"period": 2, "kept": 2, "best": None, "on_error": "stop"}
    arguments: dict[str, Any] = {
        "device": "cpu",
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
        group = next((g for g in (settings, checkpoint) if name in g), arguments)
        group[name] = value
    arguments["model"] = arguments.get("model") or TinyModel()
    arguments["loader"] = arguments.get("loader") or tiny_loader(
        **{name: settings[name] for name in ("accumulate", "images_per_gpu", "num_workers")},
        overfit_batches=settings["overfit_batches"],
    )
    return train(**arguments, run_dir=str(run_dir), settings=settings, checkpoint=checkpoint)


def metrics(run_dir):
    """The lines of the iterations; evaluations have lines of their own."""
    lines = [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]
    return [line for line in lines if "total_loss" in line]


def losses(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.json").read_text().splitlines()]
    ignored = ("time", "data_time", "images_per_s", "host_memory_MiB")
    return [{k: v for k, v in line.items() if k not in ignored} for line in lines if "lr" in line]


def state(run_dir, name="model_final.pth"):
    return torch.load(run_dir / name, weights_only=True)


def same(a, b):
    """Whether nested states are equal to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class Stopping(TinyModel):
    """Sends its process a signal during a forward pass."""

    def __init__(self, call, number=signal.SIGINT):
        super().__init__()
        self.call, self.number = call, number

    def forward(self, batch):
        result = super().forward(batch)
        if self.calls == self.call:
            os.kill(os.getpid(), self.number)
        return result


class Killed(BaseException):
    """Nothing of ours catches it, like a SIGKILL; the files stay as they are."""


class Dying(TinyModel):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, batch):
        if self.calls == self.call:
            raise Killed
        return super().forward(batch)


def refuse_writing(monkeypatch, *names):
    """No room for files of these names."""
    real = Path.open

    def open_(self, mode="r", *arguments, **options):
        if self.name in names and mode != "r":
            raise OSError(28, "No space left on device")
        return real(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
