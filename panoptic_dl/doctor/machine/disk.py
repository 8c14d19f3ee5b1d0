"""Room for a run's checkpoints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..amounts import amount
from ..patient import Patient
from ..verdicts import Verdict, fail, ok, warn

EXTRA = 2  # beside the numbered ones: the best, and one that is being written
LOGS = 200 * 2**20  # bytes for logs, events and pictures


def look_at_disk(patient: Patient) -> Verdict:
    """The free room of run_dir against the checkpoints that will be kept in it."""
    model: nn.Module = patient.part("model")
    size = checkpoint_bytes(
        model, patient.part("optimizer"), with_average=bool(patient.train["ema"])
    )
    count = patient.checkpoint["kept"] + EXTRA
    needed = count * size + LOGS
    folder = Path(patient.run_dir).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = (
        f"{amount(free)} free in {patient.run_dir}, {count} checkpoints of {amount(size)} and logs "
        f"take {amount(needed)}"
    )
    if needed <= free:
        if 2 * needed > free:
            return warn(found, "make room, or choose another run_dir: other runs write, too")
        return ok(found)
    return fail(found, "make room, choose another run_dir, or checkpoint.kept=1")


def checkpoint_bytes(
    model: nn.Module, optimizer: Callable[[nn.Module], Optimizer], *, with_average: bool
) -> int:
    """Of a checkpoint: weights, what the optimizer keeps, and perhaps a second set of weights."""
    weights = _bytes(model.state_dict())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return int(weights * (2 if with_average else 1) + trained * state_share(optimizer))


def state_share(optimizer: Callable[[nn.Module], Optimizer]) -> float:
    """How many numbers an optimizer keeps for each parameter: seen in one step of a tiny layer."""
    layer = nn.Linear(64, 64)
    tried = optimizer(layer)
    layer(torch.zeros(1, 64)).sum().backward()
    tried.step()
    kept = sum(_bytes(state) for state in tried.state.values())
    return kept / sum(p.numel() * p.element_size() for p in layer.parameters())


def _bytes(state: Any) -> int:
    values = state.values()
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))
