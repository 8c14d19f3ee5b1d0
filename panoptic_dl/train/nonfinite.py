"""What happens when a loss or a gradient is infinite or not a number."""

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from panoptic_dl.core.distributed import mean_over_processes

if TYPE_CHECKING:
    from panoptic_dl.train.trainer import Trainer

FILE = "nonfinite.jsonl"
Batches = list[list[dict[str, Any]]]

logger = logging.getLogger(__name__)


class NonFiniteLosses:
    """Stop, or leave the step out: in all processes at once, before any weight changes.

    Either way `run_dir/nonfinite.jsonl` gets a line for each process whose metrics are not finite:
    iteration, metrics, and the images whose loss is not finite alone (all images of the process if
    there is none).
    """

    def __init__(self, run_dir: Path, on_nonfinite: str, max_skips: int) -> None:
        """
        Args:
            on_nonfinite: stop | skip.
            max_skips: steps that a run may leave out, resumed runs included.
        """
        self.file, self.skip, self.max_skips = run_dir / FILE, on_nonfinite == "skip", max_skips
        self.skips = 0
        self._buffers: list[Tensor] = []

    def before_step(self, model: nn.Module) -> None:
        """Remember what a forward pass changes: the statistics of normalization layers."""
        if self.skip:
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def act(
        self,
        trainer: "Trainer",
        metrics: list[dict[str, float]],
        finite: list[bool],
        batches: Batches,
    ) -> None:
        """Record the step; raise, or restore what it has changed.

        Args:
            metrics: of each process.
            finite: which processes' metrics are finite.
            batches: micro-batches of this process.

        Raises:
            FloatingPointError: in every process, when the run is to stop.
        """
        if self.skip:
            with torch.no_grad():
                for buffer, before in zip(trainer.model.buffers(), self._buffers, strict=True):
                    buffer.copy_(before)
        samples = [] if finite[comm.get_rank()] else _offenders(trainer, batches)
        files = [sample.get("file_name") for sample in samples]
        images = comm.all_gather(
            [
                {"image_id": sample.get("image_id", file), "file_name": file}
                for sample, file in zip(samples, files, strict=True)
            ]
        )
        if comm.is_main_process():
            self._write(trainer.iter, metrics, finite, images)
        self.skips += 1
        names = [str(image["image_id"]) for of_process in images for image in of_process]
        means = {
            name: mean_over_processes(metrics, name)
            for name in metrics[0]
            if name.startswith("loss") or name == "grad_norm"
        }
        what = (
            f"a loss or gradient is not finite at iteration={trainer.iter}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in means.items())
            + f". Images: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            + f"; all are in {self.file}"
        )
        if not self.skip:
            raise FloatingPointError(
                f"{what}. No weights were changed; the last checkpoint is from before. Try a lower "
                "optimizer.lr, train.clip_norm, or train.on_nonfinite=skip, with resume=true"
            )
        if self.skips > self.max_skips:
            raise FloatingPointError(
                f"{what}. That is more than the {self.max_skips} steps that may be left out "
                "(train.max_nonfinite_skips). No weights were changed"
            )
        logger.warning("Step left out (%d of at most %d): %s", self.skips, self.max_skips, what)

    def _write(
        self,
        iteration: int,
        metrics: list[dict[str, float]],
        finite: list[bool],
        images: list[list[dict[str, Any]]],
    ) -> None:
        lines = [
            {
                "iteration": iteration,
                "process": process,
                "skipped": self.skip and self.skips < self.max_skips,
                "figures": {name: repr(value) for name, value in metrics[process].items()},
                "images": images[process],
            }
            for process in range(len(metrics))
            if not finite[process]
        ]
        try:
            with self.file.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:  # must not hide the error of the step
            logger.error("Cannot write %s: %s", self.file, error)


def _offenders(trainer: "Trainer", batches: Batches) -> list[dict[str, Any]]:
    """The samples whose loss is not finite alone; all when no single one is to blame.

    With batch statistics one image spoils its whole batch: normalization layers use their running
    statistics here. Those that the step has spoiled are reset, so that they do not spoil all.
    """
    model = cast(nn.Module, getattr(trainer.model, "module", trainer.model))
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    samples = [sample for batch in batches for sample in batch]
    for layer in layers:
        if layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.nan_to_num_(0.0, 0.0, 0.0)
            layer.running_var.nan_to_num_(1.0, 1.0, 1.0)
        layer.eval()
    with torch.no_grad(), trainer.autocast():
        losses = [float(sum(model([sample]).values())) for sample in samples]
    for layer in layers:
        layer.train()
    found = [s for s, loss in zip(samples, losses, strict=True) if not math.isfinite(loss)]
    return found or samples
