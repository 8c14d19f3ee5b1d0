"""One training step, in full or mixed precision, on a GPU or the CPU."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn
from torch.optim import Optimizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer(SimpleTrainer):
    """Detectron2's trainer with `precision`: `fp32`, `bf16`, or `fp16` with a gradient scaler.

    Its own `AMPTrainer` asks for CUDA and scales gradients in bf16 too, where nothing underflows.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: Optimizer,
        *,
        precision: str,
        device: torch.device,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"train.precision={precision} is unknown; choose one of {', '.join(PRECISIONS)}"
            )
        if precision == "fp16" and device.type == "cpu":
            raise ValueError("train.precision=fp16 needs a GPU; on the CPU choose bf16 or fp32")
        super().__init__(model, data_loader, optimizer)
        self.device = device
        self.dtype = PRECISIONS[precision]
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def run_step(self) -> None:
        """Read a batch, compute losses and gradients, step the optimizer, record the figures."""
        assert self.model.training, "the model was left in eval mode"
        started = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        mixed = self.dtype is not torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=mixed):
            losses = self.model(batch)
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        # Raises FloatingPointError on the main process when a loss is not finite, before its
        # weights change; the launcher ends the others. The last checkpoint is the last good state.
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def release_loader(self) -> None:
        """Let the loader's worker processes end now; they would hold up the end of the program."""
        self._data_loader_iter_obj = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
