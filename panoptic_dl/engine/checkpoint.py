"""Save and restore a run's state: weights, optimizer, schedule, scaler, iteration, data stream."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import distributed, nn

from panoptic_dl.loggers.several import Loggers
from panoptic_dl.weights.run_folder import FINAL

from .checkpoint_files import BEST, CheckpointFiles

logger = logging.getLogger(__name__)

ON_ERROR = ("stop", "continue")


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RunCheckpoints:
    """The checkpoints of a run; made in all its processes, written by the main one.

    A state holds no random generators: what is random in training is a function of the seed and the
    iteration (see `Trainer`), or of the position in the data stream.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        model: nn.Module,
        parts: Mapping[str, Stateful],
        kept: int,
        best: str | None = None,
        on_error: str = "stop",
        loggers: Loggers | None = None,
    ) -> None:
        """
        Args:
            model: not inside DistributedDataParallel, so that names stay plain.
            parts: what has a state besides, by names in the file.
            kept: numbered checkpoints that stay; `model_final` and `model_best` come on top.
            best: figure by which `model_best` is chosen; None: the first of an evaluation.
            on_error: a checkpoint that cannot be written stops the run | continue with a warning.
            loggers: are told of every checkpoint, and which is the best.
        """
        if on_error not in ON_ERROR:
            raise ValueError(
                f"checkpoint.on_error={on_error} is unknown; choose one of {', '.join(ON_ERROR)}"
            )
        self.files = CheckpointFiles(run_dir)
        self.model, self.parts = model, dict(parts)
        self.kept, self.best, self.on_error = kept, best, on_error
        self.loggers = loggers or Loggers(None)
        self.newest: str | None = None  # file of the state in memory, until the next step

    def exist(self) -> bool:
        """Whether the folder holds a checkpoint, whole or not."""
        return bool(self.files.names())

    def save(self, iteration: int, *, final: bool = False, must: bool = False) -> None:
        """Write the state after an iteration, once; called by all processes.

        The main process writes and the others wait: the first that ends has the launcher end all.

        Args:
            final: give it the name `model_final` too.
            must: an error is raised whatever `on_error` says, for the run is about to end.

        Raises:
            FloatingPointError: a weight is infinite or not a number; nothing is written.
            OSError: it cannot be written.
        """
        if comm.is_main_process():
            self._save(iteration, final, must)
        comm.synchronize()

    def _save(self, iteration: int, final: bool, must: bool) -> None:
        name = f"model_{iteration:07d}.pth"
        try:
            if self.newest != name:
                self.files.write(name, self._state(iteration), iteration)
                self.newest = name
                logger.info("Saved %s", self.files.folder / name)
                self.files.remove_all_but(self.kept)
                self.loggers.checkpoint(self.files.folder / name, iteration, best=False)
            if final:
                self.files.link(name, FINAL)
        except OSError as error:
            self.newest = None
            if must or self.on_error == "stop":
                raise OSError(f"{error}; free some space and continue with resume=true") from error
            logger.error("%s; training goes on (checkpoint.on_error=continue)", error)

    def _state(self, iteration: int) -> dict[str, Any]:
        weights = self.model.state_dict()
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        for name in not_finite({"model": weights} | parts):
            raise FloatingPointError(
                f"{name} is infinite or not a number after iteration {iteration}: no "
                "checkpoint is written, the last one is from before"
            )
        return {"model": weights, "iteration": iteration} | parts

    def name_final(self) -> None:
        """Let the checkpoint that was restored, of a run's last step, be `model_final`."""
        if comm.is_main_process() and self.newest is not None:
            files = self.files.manifest()
            hashes = [files.get(name, {}).get("sha256") for name in (self.newest, FINAL)]
            if hashes[0] != hashes[1] or FINAL not in self.files.names():
                self.files.link(self.newest, FINAL)
            self.files.remove_all_but(self.kept)

    def evaluated(self, figures: dict[str, float]) -> None:
        """Remember the figures of the newest checkpoint; keep it as `model_best` if it is."""
        if not comm.is_main_process() or self.newest is None or not figures:
            return
        figure = self.best or next(iter(figures))
        if figure not in figures:
            raise ValueError(
                f"checkpoint.best={figure} is no figure of this evaluation; choose one of "
                + ", ".join(figures)
            )
        try:
            best = self.files.manifest().get(BEST, {}).get("figures", {}).get(figure)
            # NaN, a figure that is not defined, is better than nothing and worse than any other.
            is_best = best is None or best != best or figures[figure] > best
            self.files.note_figures(self.newest, figures, is_best)
            if is_best:
                iteration = self.files.manifest().get(self.newest, {}).get("iteration", -1)
                self.loggers.checkpoint(self.files.folder / self.newest, iteration, best=True)
        except OSError as error:
            if self.on_error == "stop":
                raise
            logger.error("%s; training goes on (checkpoint.on_error=continue)", error)

    def was_evaluated(self) -> bool:
        """Whether the evaluation of the checkpoint that was restored came to its end."""
        return self.newest is None or "figures" in self.files.manifest().get(self.newest, {})

    def restore(self) -> int:
        """Load the newest complete checkpoint, all of it; return its iteration.

        Raises:
            ValueError: there is none, or its parameters are not the model's.
        """
        name, state = self._chosen_by_all()
        path = self.files.folder / name
        if ("ema" in state) != ("ema" in self.parts):
            there = "one" if "ema" in state else "no moving average of the weights"
            raise ValueError(
                f"train.ema is {'set' if 'ema' in self.parts else 'null'}, but the checkpoint "
                f"{path} has {there}: resume with the train.ema that the run was started with "
                "(.hydra/overrides.yaml beside it)"
            )
        try:
            self.model.load_state_dict(state["model"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint {path} is of another model; resume with the overrides that the "
                f"run was started with (.hydra/overrides.yaml beside it). {str(error)[:300]} ..."
            ) from error
        for key, part in self.parts.items():
            try:
                part.load_state_dict(state[key])
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"the checkpoint {path} does not fit the run's {key}: {error}. Resume with the "
                    "overrides that the run was started with (.hydra/overrides.yaml)"
                ) from error
        self.newest = name
        logger.info("Resumed from %s", path)
        return int(state["iteration"])

    def _chosen_by_all(self) -> tuple[str, dict[str, Any]]:
        """The main process finds the newest; the others read the same, or fail as it does."""
        if comm.get_world_size() == 1:
            return self.files.newest_complete()
        found: list[Any] = [None]
        state: dict[str, Any] = {}
        if comm.is_main_process():
            try:
                found[0], state = self.files.newest_complete()
            except ValueError as error:
                found[0] = error
        distributed.broadcast_object_list(found)
        if isinstance(found[0], ValueError):
            raise found[0]
        if not comm.is_main_process():
            path = self.files.folder / found[0]
            if not path.is_file():
                raise ValueError(
                    f"{path} is not seen by process {comm.get_rank()}: run_dir must be a folder "
                    "that all machines share"
                )
            state = torch.load(path, map_location="cpu", weights_only=True)
        return found[0], state


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors in a nested state that hold an infinite value, or none."""
    if isinstance(state, torch.Tensor):
        if state.is_floating_point() and not torch.isfinite(state).all():
            yield name
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(state, list | tuple):
        for place, value in enumerate(state):
            yield from not_finite(value, f"{name}[{place}]")
