"""Save and restore a run's state: weights, optimizer, schedule, gradient scaler, iteration."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from torch import nn

logger = logging.getLogger(__name__)


class RunCheckpointer(Checkpointer):
    """fvcore's checkpointer, made atomic and strict; Detectron2's `PeriodicCheckpointer` drives it.

    A file is written beside its place, flushed to disk and renamed; only then `last_checkpoint`
    names it. What was good before stays good, whatever interrupts the writing. Loading accepts
    tensors and plain values only (`weights_only`), and every parameter must be there.
    """

    def save(self, name: str, **extra: Any) -> None:
        """Write `<save_dir>/<name>.pth`; `extra` is stored beside the run's state."""
        if not self.save_dir or not self.save_to_disk:
            return
        state: dict[str, Any] = {"model": self.model.state_dict()}
        state |= {key: part.state_dict() for key, part in self.checkpointables.items()} | extra
        target = Path(self.save_dir, f"{name}.pth")
        temporary = target.with_suffix(".pth.partial")
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"cannot save the checkpoint {target}: {error}. Earlier checkpoints are untouched; "
                "free some space and continue with resume=true"
            ) from error
        logger.info("Saved %s", target)
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        tag = Path(self.save_dir, "last_checkpoint")
        temporary = tag.with_suffix(".partial")
        temporary.write_text(last_filename_basename)
        temporary.replace(tag)

    def restore(self) -> None:
        """Load the newest checkpoint of the run's folder, all of it.

        Raises:
            ValueError: there is none, it is unreadable, or its parameters are not the model's.
        """
        if not self.has_checkpoint():
            raise ValueError(
                f"resume=true, but there is no checkpoint in {self.save_dir}. Name the run's "
                "folder with run_dir=..., or drop resume=true to start anew"
            )
        path = self.get_checkpoint_file()
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"the checkpoint {path} cannot be read: {error}") from error
        if ("ema" in state) != ("ema" in self.checkpointables):
            there = "no moving average of the weights" if "ema" not in state else "one"
            raise ValueError(
                f"train.ema is {'set' if 'ema' in self.checkpointables else 'null'}, but the "
                f"checkpoint {path} has {there}: resume with the train.ema that the run was "
                "started with (.hydra/overrides.yaml beside it)"
            )
        try:
            self.model.load_state_dict(state["model"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint {path} is of another model; resume with the overrides that the "
                f"run was started with (.hydra/overrides.yaml beside it). {str(error)[:300]} ..."
            ) from error
        try:
            for key, part in self.checkpointables.items():
                part.load_state_dict(state[key])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"the checkpoint {path} is of another optimizer or schedule: {error}. Resume with "
                "the overrides that the run was started with (.hydra/overrides.yaml)"
            ) from error
        logger.info("Resumed from %s", path)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
