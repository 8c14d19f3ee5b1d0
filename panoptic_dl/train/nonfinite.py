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

from panoptic_dl.core.distributed import mean

if TYPE_CHECKING:
    from panoptic_dl.train.trainer import Trainer

logger = logging.getLogger(__name__)

FILE = "nonfinite.jsonl"


class NonFiniteLosses:
    """Stop, or leave the step out: in all processes at once, before any weight changes.

    Either way `run_dir/nonfinite.jsonl` gets a line for each process whose figures were not finite:
    iteration, figures, and the images whose loss is not finite when each is looked at alone (all
    images of the process if none is).
    """

    def __init__(self, run_dir: Path, on_nonfinite: str, max_skips: int) -> None:
        """
        Args:
            on_nonfinite: stop | skip.
            max_skips: steps that a run may leave out, resumed runs included.
        """
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"train.on_nonfinite={on_nonfinite} is unknown; choose stop or skip")
        self.run_dir, self.skip, self.max_skips = run_dir, on_nonfinite == "skip", max_skips
        self.skips = 0
        self._buffers: list[Tensor] = []

    def before_step(self, model: nn.Module) -> None:
        """Remember what a forward pass changes: the statistics of normalisation layers."""
        if self.skip:
            self._buffers = [buffer.clone() for buffer in model.buffers()]

    def act(
        self,
        trainer: "Trainer",
        rows: list[dict[str, float]],
        fine: list[bool],
        batches: list[list[dict[str, Any]]],
    ) -> None:
        """Record the step; raise, or bring back what it has changed.

        Args:
            rows: figures of each process.
            fine: which processes' figures are finite.
            batches: micro-batches of this process.

        Raises:
            FloatingPointError: in every process, when the run is to stop.
        """
        if self.skip:
            with torch.no_grad():
                for buffer, before in zip(trainer.model.buffers(), self._buffers, strict=True):
                    buffer.copy_(before)
        record = self._record(trainer, rows, fine, batches)
        self.skips += 1
        figures = {n: mean(rows, n) for n in rows[0] if n.startswith("loss") or n == "grad_norm"}
        what = (
            f"a loss or gradient is not finite at iteration={trainer.iter}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            + f". Images: {record}; all are in {self.run_dir / FILE}"
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

    def _record(
        self,
        trainer: "Trainer",
        rows: list[dict[str, float]],
        fine: list[bool],
        batches: list[list[dict[str, Any]]],
    ) -> str:
        """Write the lines of all processes; return the images in words."""
        rank = comm.get_rank()
        samples = [] if fine[rank] else _offenders(trainer, batches)
        gathered = comm.all_gather([_name(sample) for sample in samples])
        images = [image for of_process in gathered for image in of_process]
        if comm.is_main_process():
            lines = [
                {
                    "iteration": trainer.iter,
                    "process": process,
                    "skipped": self.skip and self.skips < self.max_skips,
                    "figures": {n: repr(v) for n, v in rows[process].items()},
                    "images": gathered[process],
                }
                for process in range(len(rows))
                if not fine[process]
            ]
            try:
                with (self.run_dir / FILE).open("a") as file:
                    file.writelines(json.dumps(line) + "\n" for line in lines)
            except OSError as error:  # what is to be said is more than what can be written
                logger.error("Cannot write %s: %s", self.run_dir / FILE, error)
        shown = [str(image["image_id"]) for image in images]
        return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def _name(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_id": sample.get("image_id", sample.get("file_name")),
        "file_name": sample.get("file_name"),
    }


def _offenders(trainer: "Trainer", batches: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The samples whose loss is not finite alone; all when it takes several to do it.

    With batch statistics one image spoils its whole batch: normalisation layers use their running
    statistics here.
    """
    model = cast(nn.Module, getattr(trainer.model, "module", trainer.model))
    frozen = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    samples = [sample for batch in batches for sample in batch]
    _make_finite(frozen)
    for layer in frozen:
        layer.eval()
    with torch.no_grad(), trainer.autocast():
        alone = [float(sum(model([sample]).values())) for sample in samples]
    for layer in frozen:
        layer.train()
    found = [s for s, loss in zip(samples, alone, strict=True) if not math.isfinite(loss)]
    return found or samples


def _make_finite(layers: list[_BatchNorm]) -> None:
    """A run that ends keeps no statistics from before the step: spoiled ones become neutral."""
    for layer in layers:
        if layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.nan_to_num_(0.0, 0.0, 0.0)
            layer.running_var.nan_to_num_(1.0, 1.0, 1.0)
