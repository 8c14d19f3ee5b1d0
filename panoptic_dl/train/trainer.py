"""One training step: micro-batches, gradients, one word between the processes, the optimizer.

Images of the training split that could not be read: named, counted, bounded.
"""

import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from panoptic_dl.core.distributed import gather_figures, mean
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.train.nonfinite import NonFiniteLosses

logger = logging.getLogger(__name__)

FILE = "bad_samples.json"


class BadSamples:
    """The images that others stood in for, over all processes and resumed runs of a run.

    `run_dir/bad_samples.json` lists them: {file: error}.
    """

    def __init__(self, run_dir: Path, limit: int) -> None:
        self.run_dir, self.limit = run_dir, limit
        self.known: dict[str, str] = {}

    def add(self, met: dict[str, str]) -> None:
        """Take note of what the processes have met in a step; called by all of them.

        Raises:
            ValueError: in every process, when there are more than the limit.
        """
        new: dict[str, str] = {}
        for of_process in comm.all_gather(met):
            new |= {file: error for file, error in of_process.items() if file not in self.known}
        if not new:
            return
        self.known |= new
        if comm.is_main_process():
            try:
                (self.run_dir / FILE).write_text(json.dumps(self.known, indent=1) + "\n")
            except OSError as failure:  # the warnings say it, too
                logger.error("Cannot write %s: %s", self.run_dir / FILE, failure)
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
                f"dataset.max_bad_samples={self.limit} allows; {self.run_dir / FILE} lists them. "
                f"The last one: {list(new.values())[-1]}"
            )


MAX_OVERFLOWS = 40  # fp16 steps in a row; the scale is then 2^-40 of what it was
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Loader(Protocol):
    """Endless micro-batches of this process, `accumulate` of them for a step."""

    seed: int
    accumulate: int
    device: torch.device | None  # where its batches shall be, if it moves them

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...
    def take_bad_samples(self) -> dict[str, str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainer(SimpleTrainer):
    """Detectron2's trainer with `precision`, accumulated gradients, and steps that agree.

    Whatever is random in a step depends on (seed, iteration, rank) alone, so a resumed run draws
    what an uninterrupted one draws. After the gradients, one collective tells every process the
    losses of all, whether one is not finite, and whether one was asked to stop: they act alike.
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
        bad_samples: BadSamples,
        clip_norm: float | None = None,
    ) -> None:
        """
        Args:
            model: returns a dict of losses; perhaps inside DistributedDataParallel.
            precision: of the forward pass: fp32 | bf16 | fp16 (with a gradient scaler).
            clip_norm: larger gradients are shrunk to this norm (over all parameters); None: never.
        """
        super().__init__(model, loader, optimizer)
        self.loader = loader
        self.device = loader.device = device
        self.dtype = DTYPES[precision]
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.stop, self.nonfinite, self.bad_samples = stop, nonfinite, bad_samples
        self.clip_norm = clip_norm
        self.agreed_signal = 0  # that some process received before this step's figures were told
        self.overflows = 0  # steps in a row whose gradients were not finite in fp16
        self.skipped = False  # whether the last step left the weights as they were

    def run_step(self) -> None:
        """Take micro-batches, compute losses and gradients, step the optimizer, record figures."""
        assert self.model.training, "the model was left in eval mode"
        self._seed_step()
        self.nonfinite.before_step(self.model)
        self.optimizer.zero_grad()
        batches, losses, data_time = self._gradients()
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = self.loader.take_bad_samples()
        rows = gather_figures(
            losses | {"grad_norm": norm},
            {"data_time": data_time, "signal": self.stop.signal, "bad": len(bad)},
        )
        self.agreed_signal = int(max(row["signal"] for row in rows))
        if any(row["bad"] for row in rows):
            self.bad_samples.add(bad)
        self._record(rows, list(losses))
        fine = [all(math.isfinite(row[name]) for name in losses) for row in rows]
        # One process's loss spoils the gradient of all. In fp16 gradients overflow now and then:
        # the scaler leaves such steps out by itself; but not for ever.
        overflow = all(fine) and not math.isfinite(rows[0]["grad_norm"])
        self.overflows = self.overflows + 1 if overflow else 0
        if overflow and (not self.grad_scaler.is_enabled() or self.overflows > MAX_OVERFLOWS):
            fine = [False] * len(rows)
        self.skipped = overflow or not all(fine)
        if not all(fine):
            self.nonfinite.act(self, rows, fine, batches)
        else:
            if self.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.clip_norm, norm)
            self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _gradients(self) -> tuple[list[Any], dict[str, Tensor], float]:
        """Sum a step's gradients; return its micro-batches, mean losses, seconds of waiting."""
        batches: list[Any] = []
        sums: dict[str, Tensor] = {}
        waited = 0.0
        parts = self.loader.accumulate
        for part in range(parts):
            started = time.perf_counter()
            batches.append(next(self._data_loader_iter))
            waited += time.perf_counter() - started
            with self._alone() if part < parts - 1 else contextlib.nullcontext():
                with self.autocast():
                    losses = self.model(batches[-1])
                    total = sum(losses.values()) / parts
                self.grad_scaler.scale(total).backward()
            for name, loss in losses.items():
                share = loss.detach() / parts
                sums[name] = sums[name] + share if part else share
        return batches, sums, waited

    def _alone(self) -> AbstractContextManager[None]:
        """Gradients are exchanged once a step, with those of the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        mixed = self.dtype is not torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed)

    def _seed_step(self) -> None:
        words = np.random.SeedSequence([self.loader.seed, self.iter, comm.get_rank()])
        state = words.generate_state(4)
        torch.manual_seed(int(state[0]))
        np.random.seed(state)  # noqa: NPY002
        random.seed(state.tobytes())

    def _record(self, rows: list[dict[str, float]], losses: list[str]) -> None:
        """Losses are means over the processes, the time of waiting is that of the slowest."""
        means = {name: mean(rows, name) for name in losses}
        self.storage.put_scalar("data_time", max(row["data_time"] for row in rows))
        self.storage.put_scalar("grad_norm", rows[0]["grad_norm"])
        self.storage.put_scalar("total_loss", sum(means.values()))
        if len(means) > 1:
            self.storage.put_scalars(**means)

    def release_loader(self) -> None:
        """Let the loader's worker processes end now; they would hold up the end of the program."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "grad_scaler": self.grad_scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "overflows": self.overflows,
            "skips": self.nonfinite.skips,
            "bad_samples": dict(self.bad_samples.known),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint; the optimizer's options (but for its state) are the config's.

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
    """Of an optimizer's group: what is neither parameters nor set by the schedule."""
    return {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr")}
