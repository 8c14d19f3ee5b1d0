"""One training step: micro-batches, gradients, an exchange between processes, the optimizer.

A step whose losses or gradients are not finite is recorded, and ends the run or is left out.

On a GPU the host does not wait for a step before it queues the next one, where the optimizer can
leave a step out by itself: the metrics of a step are read while the device works on the next one.
"""

import contextlib
import itertools
import json
import logging
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.engine.train_loop import TrainerBase
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from panoptic_dl.core.distributed import gather_metrics
from panoptic_dl.core.settings import TrainSettings
from panoptic_dl.launch.signals import StopRequest
from panoptic_dl.models.batch_norm import SYNCHRONIZED
from panoptic_dl.train.ema import copy_all
from panoptic_dl.train.precision import autocast, fixed_sizes

MAX_OVERFLOWS = 40  # fp16 steps in a row; the scale is then 2^-40 of what it was
BAD_SAMPLES_FILE = "bad_samples.json"
NONFINITE_FILE = "nonfinite.jsonl"
QUEUED_DEVICES = ("cuda",)  # on which steps are queued
CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # of train.compile, those that use them
Batches = list[list[dict[str, Any]]]

logger = logging.getLogger(__name__)


class Loader(Protocol):
    """Endless micro-batches of this process, `accumulate` of them for a step."""

    seed: int
    accumulate: int
    max_bad_samples: int
    other_records: bool  # than those that the checkpoint was trained on
    device: torch.device | None  # where to move its batches, if it moves them

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...
    def take_bad_samples(self) -> dict[str, str]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass
class _Step:
    """A step whose metrics the host has not read yet."""

    iteration: int
    names: list[str]  # of the metrics
    losses: list[str]  # names of those that are losses
    metrics: Tensor  # (processes, metrics) on the host, perhaps on their way
    copied: torch.cuda.Event | None  # after which they are there
    batches: Batches
    bad_samples: dict[str, str]


class Trainer(SimpleTrainer):
    """Detectron2's trainer with mixed precision, accumulated gradients, and steps that agree.

    Whatever is random in a step depends on (seed, iteration, rank) alone, so a resumed run draws
    what an uninterrupted one draws. After the gradients, one collective gives every process the
    losses of all, whether one is not finite, and whether a signal came: they act alike. Where steps
    are queued, they act on it one step later, or when `settle` is called.

    `run_dir/bad_samples.json` lists images that could not be read and were replaced by others.
    `run_dir/nonfinite.jsonl` has a line for each process with a loss or gradient that is not
    finite: iteration, metrics, and the images to blame.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        optimizer: Optimizer,
        settings: TrainSettings,
        *,
        device: torch.device,
        stop: StopRequest,
        run_dir: Path,
        find_unused_parameters: bool = False,
    ) -> None:
        """`model` returns a dict of losses, perhaps inside DistributedDataParallel."""
        super().__init__(model, loader, optimizer)
        self.loader, self.settings = loader, settings
        self.device = loader.device = device
        fp16 = settings.precision == "fp16"
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self.stop, self.run_dir = stop, run_dir
        # A graph of CUDA writes gradients where those of the micro-batch before are.
        self._adds_gradients = loader.accumulate > 1 and settings.compile in CUDA_GRAPHS
        self._is_checked = find_unused_parameters
        self._is_queued = (
            device.type in QUEUED_DEVICES
            and settings.on_nonfinite == "stop"
            and not fp16  # whose overflows are left out, too
            and getattr(optimizer, "_step_supports_amp_scaling", False)
        )
        self._pending: _Step | None = None
        self._own_buffers = _unsynchronized_buffers(model) if comm.get_world_size() > 1 else []
        self.agreed_signal = 0  # that some process received before this step
        self.skipped = False  # whether the last step left the weights as they were
        self.overflows = 0  # steps in a row whose gradients were not finite in fp16
        self.skips = 0  # steps that were left out, in all attempts of the run
        self.bad_samples: dict[str, str] = {}  # errors by file, of all processes and attempts

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
        skips = self.settings.on_nonfinite == "skip"
        # What a forward pass changes: the statistics of normalization layers.
        buffers = [torch.empty_like(buffer) for buffer in self.model.buffers()] if skips else []
        if skips:
            copy_all(buffers, [*self.model.buffers()])
        self.optimizer.zero_grad()
        if self._adds_gradients:
            for parameter in filter(lambda each: each.requires_grad, self.model.parameters()):
                parameter.grad = torch.zeros_like(parameter)
        with fixed_sizes():
            batches, losses, data_time = self._accumulate_gradients()
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        bad_samples = self.loader.take_bad_samples()
        tensors = losses | {"grad_norm": norm}
        numbers = {"data_time": data_time, "signal": self.stop.signal, "bad": len(bad_samples)}
        metrics = gather_metrics(tensors, numbers)
        on_host, copied = metrics.to("cpu", non_blocking=True), None
        if metrics.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        self.settle()  # the step before, ere the weights change again
        names = [*tensors, *numbers]
        self._pending = _Step(self.iter, names, [*losses], on_host, copied, batches, bad_samples)
        done = self.iter + 1
        if self._is_queued:
            finite = metrics[:, : len(tensors)].isfinite().all()
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self._change_weights(norm)
            is_due = done % self.settings.log_period == 0 or done >= self.settings.iterations
            if is_due or self.agreed_signal:
                self.settle()
        elif self.settle(buffers):
            self._change_weights(norm)
        self.grad_scaler.update()
        sent = [distributed.broadcast(each, 0, async_op=True) for each in self._own_buffers]
        for work in filter(None, sent):
            work.wait()

    def _change_weights(self, norm: Tensor) -> None:
        if (clip := self.settings.clip_norm) is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), clip, norm)
        self.grad_scaler.step(self.optimizer)

    def settle(self, buffers: Sequence[Tensor] = ()) -> bool:
        """Act on the metrics of the last step, if that is not done yet; whether it is to be made.

        All processes call it at the same place, before what they save or decide. `buffers` are what
        the model's were before the step. Raises FloatingPointError where the step ends the run.
        """
        step, self._pending = self._pending, None
        if step is None:
            return True
        if step.copied is not None:
            step.copied.synchronize()
        metrics = [dict(zip(step.names, row, strict=True)) for row in step.metrics.tolist()]
        self.agreed_signal = int(max(process["signal"] for process in metrics))
        if any(process["bad"] for process in metrics):
            self._record_bad_samples(step.bad_samples)
        self._log_metrics(metrics, step)
        finite = self._check_finite(metrics, step.losses)
        if not all(finite):
            if buffers:
                copy_all([*self.model.buffers()], buffers)
            self._leave_out(metrics, finite, step)
        return all(finite)

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
            if self.settings.compile:
                torch.compiler.cudagraph_mark_step_begin()
            delayed = part < parts - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if delayed else contextlib.nullcontext():
                with autocast(self.settings.precision, self.device), _ddp_errors():
                    losses = self.model(batches[-1])
                    total = sum(losses.values()) / parts
                if not self._is_checked:
                    self._check_parameters(total)
                self.grad_scaler.scale(total).backward()
            for name, loss in losses.items():
                share = loss.detach() / parts
                sums[name] = sums[name] + share if part else share
        return batches, sums, waited

    def _check_parameters(self, loss: Tensor) -> None:
        """Called by every process first: ValueError where parameters take no part in the loss."""
        self._is_checked = True
        model = cast(nn.Module, getattr(self.model, "module", self.model))
        used = _parameters_of(loss)
        own = [n for n, p in model.named_parameters() if p.requires_grad and used and p not in used]
        names = list(dict.fromkeys(itertools.chain(*comm.all_gather(own))))
        if names:
            raise ValueError(
                f"{len(names)} parameters take no part in the loss: {', '.join(names[:8])}"
                f"{', ...' if len(names) > 8 else ''}. Several processes could not train so: take "
                "them out of the model or freeze them (requires_grad_(False)), or allow it with "
                "launch.find_unused_parameters=true"
            )

    def _check_finite(self, metrics: list[dict[str, float]], losses: list[str]) -> list[bool]:
        """For each process, whether its step may be made; one that may not spoils that of all.

        In fp16 gradients overflow now and then, and the scaler leaves such steps out. Without a
        scaler, or for more than `MAX_OVERFLOWS` in a row, that counts as a loss that is not finite.
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

    def _log_metrics(self, metrics: list[dict[str, float]], step: _Step) -> None:
        """Losses are means over the processes, the time of waiting is that of the slowest."""
        means = {n: sum(process[n] for process in metrics) / len(metrics) for n in step.losses}
        logged = {
            "data_time": max(process["data_time"] for process in metrics),
            "grad_norm": metrics[0]["grad_norm"],
            "total_loss": sum(means.values()),
        }
        if len(means) > 1:
            logged |= means
        self.storage.put_scalars(cur_iter=step.iteration, **logged)

    def _leave_out(self, metrics: list[dict[str, float]], finite: list[bool], step: _Step) -> None:
        """Record a step that is not finite; raise FloatingPointError where it ends the run."""
        samples = [] if finite[comm.get_rank()] else self._samples_to_blame(step.batches)
        files = [(sample.get("file_name"), sample) for sample in samples]
        images = comm.all_gather(
            [{"image_id": s.get("image_id", file), "file_name": file} for file, s in files]
        )
        skips, most = self.settings.on_nonfinite == "skip", self.settings.max_nonfinite_skips
        lines = [
            {
                "iteration": step.iteration,
                "process": process,
                "skipped": skips and self.skips < most,
                "figures": {name: repr(value) for name, value in metrics[process].items()},
                "images": images[process],
            }
            for process in range(len(metrics))
            if not finite[process]
        ]
        self._write(NONFINITE_FILE, "".join(json.dumps(line) + "\n" for line in lines), "a")
        self.skips += 1
        names = [str(image["image_id"]) for of_process in images for image in of_process]
        means = {
            name: sum(process[name] for process in metrics) / len(metrics)
            for name in metrics[0]
            if name.startswith("loss") or name == "grad_norm"
        }
        what = (
            f"a loss or gradient is not finite at iteration={step.iteration}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in means.items())
            + f". Images: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
            + f"; all are in {self.run_dir / NONFINITE_FILE}"
        )
        if not skips:
            raise FloatingPointError(
                f"{what}. No weights were changed; the last checkpoint is from before. Add "
                "resume=true resume_changed=true and a lower optimizer.lr, train.clip_norm, "
                "or train.on_nonfinite=skip"
            )
        if self.skips > most:
            raise FloatingPointError(
                f"{what}. That is more than the {most} steps that may be left out "
                "(train.max_nonfinite_skips). No weights were changed"
            )
        logger.warning("Step left out (%d of at most %d): %s", self.skips, most, what)

    def _samples_to_blame(self, batches: Batches) -> list[dict[str, Any]]:
        """The samples whose loss is not finite alone; all when no single one is to blame.

        Normalization layers use their running statistics: one image would spoil its whole batch.
        """
        model = cast(nn.Module, getattr(self.model, "module", self.model))
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
        samples = [sample for batch in batches for sample in batch]
        for layer in layers:
            if layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean.nan_to_num_(0.0, 0.0, 0.0)
                layer.running_var.nan_to_num_(1.0, 1.0, 1.0)
            layer.eval()
        with torch.no_grad(), autocast(self.settings.precision, self.device):
            losses = [float(sum(model([sample]).values())) for sample in samples]
        for layer in layers:
            layer.train()
        found = [s for s, loss in zip(samples, losses, strict=True) if not math.isfinite(loss)]
        return found or samples

    def _record_bad_samples(self, bad_samples: dict[str, str]) -> None:
        """Add those of a step, in every process; ValueError when there are too many."""
        new: dict[str, str] = {}
        for of_process in comm.all_gather(bad_samples):
            new |= {
                file: error for file, error in of_process.items() if file not in self.bad_samples
            }
        if not new:
            return
        self.bad_samples |= new
        known, limit = len(self.bad_samples), self.loader.max_bad_samples
        self._write(BAD_SAMPLES_FILE, json.dumps(self.bad_samples, indent=1) + "\n", "w")
        for file, error in new.items():
            logger.warning(
                f"Another image stands in for {file} (bad image {known} of at most {limit}): "
                f"{error}"
            )
        if known > limit:
            raise ValueError(
                f"{known} images of the training split cannot be read, more than "
                f"dataset.max_bad_samples={limit} allows; {self.run_dir / BAD_SAMPLES_FILE} lists "
                f"them. The last one: {list(new.values())[-1]}"
            )

    def _write(self, name: str, text: str, mode: str) -> None:
        """Write a record of the run; an error must not hide what it is about."""
        if not comm.is_main_process():
            return
        try:
            with (self.run_dir / name).open(mode) as file:
                file.write(text)
        except OSError as error:
            logger.error("Cannot write %s: %s", self.run_dir / name, error)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "grad_scaler": self.grad_scaler.state_dict(),
            "loader": self.loader.state_dict(),
            "overflows": self.overflows,
            "skips": self.skips,
            "bad_samples": dict(self.bad_samples),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a checkpoint; ValueError if it is of another optimizer."""
        defaults = self.optimizer.defaults
        for group in state_dict["optimizer"]["param_groups"] if "fused" in defaults else ():
            group["fused"] = defaults["fused"]  # of this run: then counters lie on the device
        self.optimizer.load_state_dict(state_dict["optimizer"])
        TrainerBase.load_state_dict(self, state_dict)  # whose schedule belongs to the optimizer
        self.overflows = state_dict["overflows"]
        if state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.loader.load_state_dict(state_dict["loader"])
        self.skips = state_dict["skips"]
        self.bad_samples |= state_dict["bad_samples"]


def _parameters_of(loss: Tensor) -> set[Tensor]:
    """The parameters that `loss` was computed from; empty where its graph does not tell."""
    todo, seen = [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if "CheckpointFunction" in node.name():  # re-entrant: its inner graph is made later
            return set()
        seen.add(node)
        todo += [before for before, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


@contextlib.contextmanager
def _ddp_errors() -> Iterator[None]:
    """Say what to do where parameters take part in the losses of some steps only."""
    try:
        yield
    except RuntimeError as error:
        if "finished reduction in the prior iteration" not in str(error):
            raise
        raise ValueError(
            "some parameters took no part in the loss of the step before, which several processes "
            "must be told: launch.find_unused_parameters=true"
        ) from error


def _unsynchronized_buffers(model: nn.Module) -> list[Tensor]:
    """Buffers that differ between processes after a step (plain batch normalization's): the main
    one's are kept. DistributedDataParallel does it before a forward pass, too late to evaluate.
    """
    return [
        buffer
        for module in model.modules()
        if not isinstance(module, (*SYNCHRONIZED, FrozenBatchNorm2d))
        for buffer in module.buffers(recurse=False)
    ]
