"""One training step: micro-batches, gradients, an exchange between processes, the optimizer."""

import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from panoptic_dl.core.distributed import gather_metrics, mean_over_processes
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.train.nonfinite import NonFiniteLosses

MAX_OVERFLOWS = 40  # fp16 steps in a row; the scale is then 2^-40 of what it was
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # a rounding inside convolutions; see `precision.float32`
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
BAD_SAMPLES_FILE = "bad_samples.json"

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """Endless micro-batches of this process, `accumulate` of them for a step."""

    seed: int
    accumulate: int
    max_bad_samples: int
    device: torch.device | None  # where to move its batches, if it moves them

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...
    def take_bad_samples(self) -> dict[str, str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainer(SimpleTrainer):
    """Detectron2's trainer with mixed precision, accumulated gradients, and steps that agree.

    Whatever is random in a step depends on (seed, iteration, rank) alone, so a resumed run draws
    what an uninterrupted one draws. After the gradients, one collective gives every process the
    losses of all, whether one is not finite, and whether a signal came: they act alike.

    Attributes:
        agreed_signal: number of a signal that some process received before this step, or 0.
        skipped: whether the last step left the weights as they were.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        optimizer: Optimizer,
        *,
        precision: str,
        device: torch.device,
        stop: StopRequest,
        nonfinite: NonFiniteLosses,
        run_dir: Path,
        clip_norm: float | None = None,
    ) -> None:
        """
        Args:
            model: returns a dict of losses; perhaps inside DistributedDataParallel.
            precision: of the forward pass: fp32 | tf32 | bf16 | fp16 (with a gradient scaler).
            run_dir: gets `bad_samples.json`.
            clip_norm: larger gradients are scaled to this norm (over all parameters); None: never.
        """
        super().__init__(model, loader, optimizer)
        self.loader = loader
        self.device = loader.device = device
        self.dtype = DTYPES[precision]
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.stop, self.nonfinite, self.clip_norm = stop, nonfinite, clip_norm
        self.bad_samples = _BadSamples(run_dir, loader.max_bad_samples)
        self.agreed_signal = 0
        self.overflows = 0  # steps in a row whose gradients were not finite in fp16
        self.skipped = False

    def train(self, start_iter: int, max_iter: int) -> None:
        """Train from one iteration to another; then end the loader's worker processes."""
        try:
            super().train(start_iter, max_iter)
        finally:
            self._data_loader_iter_obj = None

    def run_step(self) -> None:
        """Take micro-batches, compute losses and gradients, step the optimizer, log metrics."""
        assert self.model.training, "the model was left in eval mode"
        self._seed_step()
        self.nonfinite.before_step(self.model)
        self.optimizer.zero_grad()
        batches, losses, data_time = self._accumulate_gradients()
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad_samples = self.loader.take_bad_samples()
        metrics = gather_metrics(
            losses | {"grad_norm": norm},
            {"data_time": data_time, "signal": self.stop.signal, "bad": len(bad_samples)},
        )
        self.agreed_signal = int(max(process["signal"] for process in metrics))
        if any(process["bad"] for process in metrics):
            self.bad_samples.add(bad_samples)
        self._log_metrics(metrics, list(losses))
        finite = self._check_finite(metrics, list(losses))
        if not all(finite):
            self.nonfinite.act(self, metrics, finite, batches)
        else:
            if self.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _accumulate_gradients(self) -> tuple[list[Any], dict[str, Tensor], float]:
        """Sum a step's gradients; return its micro-batches, mean losses, seconds of waiting."""
        batches: list[Any] = []
        sums: dict[str, Tensor] = {}
        waited = 0.0
        parts = self.loader.accumulate
        for part in range(parts):
            started = time.perf_counter()
            batches.append(next(self._data_loader_iter))
            waited += time.perf_counter() - started
            # Gradients are exchanged once a step, with those of the last micro-batch.
            delayed = part < parts - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if delayed else contextlib.nullcontext():
                with self.autocast():
                    losses = self.model(batches[-1])
                    total = sum(losses.values()) / parts
                self.grad_scaler.scale(total).backward()
            for name, loss in losses.items():
                share = loss.detach() / parts
                sums[name] = sums[name] + share if part else share
        return batches, sums, waited

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        mixed = self.dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed)

    def _check_finite(self, metrics: list[dict[str, float]], losses: list[str]) -> list[bool]:
        """For each process, whether its step may be made; one that may not spoils that of all.

        In fp16 gradients overflow now and then: the scaler leaves such steps out by itself. Without
        a scaler, and for more than `MAX_OVERFLOWS` steps in a row, an overflow counts as a loss
        that is not finite.
        """
        finite = [all(math.isfinite(process[name]) for name in losses) for process in metrics]
        overflow = all(finite) and not math.isfinite(metrics[0]["grad_norm"])
        self.overflows = self.overflows + 1 if overflow else 0
        self.skipped = overflow or not all(finite)
        if overflow and (not self.grad_scaler.is_enabled() or self.overflows > MAX_OVERFLOWS):
            return [False] * len(metrics)
        return finite

    def _seed_step(self) -> None:
        words = np.random.SeedSequence([self.loader.seed, self.iter, comm.get_rank()])
        state = words.generate_state(4)
        torch.manual_seed(int(state[0]))
        np.random.seed(state)  # noqa: NPY002
        random.seed(state.tobytes())

    def _log_metrics(self, metrics: list[dict[str, float]], losses: list[str]) -> None:
        """Losses are means over the processes, the time of waiting is that of the slowest."""
        means = {name: mean_over_processes(metrics, name) for name in losses}
        self.storage.put_scalar("data_time", max(process["data_time"] for process in metrics))
        self.storage.put_scalar("grad_norm", metrics[0]["grad_norm"])
        self.storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            self.storage.put_scalars(**means)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "grad_scaler": self.grad_scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "overflows": self.overflows,
            "skips": self.nonfinite.skips,
            "bad_samples": dict(self.bad_samples.known),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a checkpoint, but keep the optimizer's options of the config.

        Raises:
            ValueError: it is of an optimizer of another kind, or of other parameters.
        """
        ours = [_options(group) for group in self.optimizer.param_groups]
        theirs = [_options(group) for group in state_dict["optimizer"]["param_groups"]]
        if [group.keys() for group in ours] != [group.keys() for group in theirs]:
            raise ValueError("it is of an optimizer of another kind")
        super().load_state_dict(state_dict)
        for group, options in zip(self.optimizer.param_groups, ours, strict=True):
            group |= options
        self.overflows = state_dict["overflows"]
        if state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.loader.load_state_dict(state_dict["loader"])
        self.nonfinite.skips = state_dict["skips"]
        self.bad_samples.known |= state_dict["bad_samples"]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of an optimizer's group, without parameters and what the schedule sets."""
    return {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}


class _BadSamples:
    """Training images that could not be read and were replaced by others, of all processes.

    `run_dir/bad_samples.json` lists them: {file: error}. Resumed runs go on with the list.
    """

    def __init__(self, run_dir: Path, limit: int) -> None:
        self.file, self.limit = run_dir / BAD_SAMPLES_FILE, limit
        self.known: dict[str, str] = {}

    def add(self, bad_samples: dict[str, str]) -> None:
        """Add those of a step, {file: error}; every process calls this with its own.

        Raises:
            ValueError: in every process, when there are more than the limit.
        """
        new: dict[str, str] = {}
        for of_process in comm.all_gather(bad_samples):
            new |= {file: error for file, error in of_process.items() if file not in self.known}
        if not new:
            return
        self.known |= new
        if comm.is_main_process():
            try:
                self.file.write_text(json.dumps(self.known, indent=1) + "\n")
            except OSError as failure:  # the warnings name them, too
                logger.error("Cannot write %s: %s", self.file, failure)
        for file, error in new.items():
            logger.warning(
                "Another image stands in for %s (bad image %d of at most %d): %s",
                file,
                len(self.known),
                self.limit,
                error,
            )
        if len(self.known) > self.limit:
            raise ValueError(
                f"{len(self.known)} images of the training split cannot be read, more than "
                f"dataset.max_bad_samples={self.limit} allows; {self.file} lists them. "
                f"The last one: {list(new.values())[-1]}"
            )
