"""Ctrl-C and SIGTERM end a run after the step under way, with a checkpoint."""

import logging
import signal
import threading
from types import FrameType

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import distributed

from .checkpoint import RunCheckpointer

logger = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training stopped on request; a checkpoint holds its state."""


class StopOnSignal(HookBase):
    """Save and stop after the current step once a signal came; a second Ctrl-C stops at once.

    Processes that train together agree on the step, so that none waits for another in vain. Loader
    workers are forked after the handler is installed and inherit it: Ctrl-C does not kill them.
    """

    def __init__(self, checkpointer: RunCheckpointer, device: torch.device) -> None:
        self.checkpointer = checkpointer
        self.device = device
        self.requested = False
        self.previous: dict[signal.Signals, object] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.previous = {s: signal.signal(s, self._request) for s in SIGNALS}

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def after_step(self) -> None:
        requested = self.requested
        if comm.get_world_size() > 1:
            flag = torch.tensor(int(requested), device=self.device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            requested = bool(flag.item())
        if not requested or self.trainer.iter + 1 >= self.trainer.max_iter:
            return
        self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        logger.warning(
            "Stopped after iteration %d of %d; continue with: run_dir=%s resume=true",
            self.trainer.iter + 1,
            self.trainer.max_iter,
            self.checkpointer.save_dir,
        )
        raise Interrupted

    def after_train(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
