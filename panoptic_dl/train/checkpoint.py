"""Checkpoints of a run: weights, optimizer, schedule, scaler, iteration, data stream.

Files are written atomically and verified by their hashes. `checkpoints.json`, the manifest, holds
for each file its iteration, size, SHA-256 and the metrics of its evaluation; `last_checkpoint`
holds the name of the newest file, as Detectron2 does.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from detectron2.utils import comm
from torch import distributed, nn

from panoptic_dl.core.files import (
    atomic_write,
    flush,
    save_state,
    sha256_of,
    write_text,
)
from panoptic_dl.core.run_folder import BEST, FINAL, MANIFEST, NEWEST
from panoptic_dl.evaluation.metrics import is_better
from panoptic_dl.loggers.base import Loggers
from panoptic_dl.weights.names import not_finite

PATTERN = re.compile(r"model_(\d{7}|final|best)\.pth")
GOES_ON = "%s; training goes on (checkpoint.on_error=continue)"
State = dict[str, Any]

logger = logging.getLogger(__name__)


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class RunCheckpoints:
    """The checkpoints of a run; every process has this object, the main one writes.

    A state holds no random generators: what is random in training is a function of the seed and the
    iteration (see `Trainer`), or of the position in the data stream.
    """

    def __init__(
        self,
        run_dir: str,
        *,
        model: nn.Module,
        parts: Mapping[str, _Stateful],
        kept: int,
        best: str | None,
        on_error: str,
        loggers: Loggers,
    ) -> None:
        """
        Args:
            model: not inside DistributedDataParallel, so that names stay plain.
            parts: other objects with a state, by their names in the file.
            kept: numbered checkpoints that stay; `model_final` and `model_best` come on top.
            best: metric by which `model_best` is chosen; None: the first of an evaluation.
            on_error: stop | continue (with a warning), where a checkpoint cannot be written.
            loggers: get every checkpoint, and which is the best.
        """
        self.files = CheckpointFiles(run_dir)
        self.model, self.parts = model, dict(parts)
        self.kept, self.best, self.on_error = kept, best, on_error
        self.loggers = loggers
        self.newest: str | None = None  # file of the state in memory, until the next step

    def save(self, iteration: int, *, final: bool = False, must: bool = False) -> None:
        """Write the state after an iteration, once; called by all processes.

        The main process writes and the others wait: the first that ends has the launcher end all.

        Args:
            final: link it as `model_final`, too.
            must: raise errors whatever `on_error` is, for the run is about to end.

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
            logger.error(GOES_ON, error)

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
        """Link the checkpoint that was restored, of a run's last step, as `model_final`."""
        if comm.is_main_process() and self.newest is not None:
            files = self.files.manifest()
            hashes = [files.get(name, {}).get("sha256") for name in (self.newest, FINAL)]
            if hashes[0] != hashes[1] or FINAL not in self.files.names():
                self.files.link(self.newest, FINAL)
            self.files.remove_all_but(self.kept)

    def note_metrics(self, metrics: dict[str, float]) -> None:
        """Record the metrics of the newest checkpoint; link it as `model_best` if it is."""
        if not comm.is_main_process() or self.newest is None or not metrics:
            return
        name = self.best or next(iter(metrics))
        if name not in metrics:
            raise ValueError(
                f"checkpoint.best={name} is no metric of this evaluation; choose one of "
                + ", ".join(metrics)
            )
        try:
            best = self.files.manifest().get(BEST, {}).get("figures", {}).get(name)
            # NaN, a metric that is not defined, is better than nothing and worse than any other.
            is_best = best is None or best != best or is_better(name, metrics[name], best)
            self.files.note_metrics(self.newest, metrics, is_best)
            if is_best:
                iteration = self.files.manifest().get(self.newest, {}).get("iteration", -1)
                self.loggers.checkpoint(self.files.folder / self.newest, iteration, best=True)
        except OSError as error:
            if self.on_error == "stop":
                raise
            logger.error(GOES_ON, error)

    def was_evaluated(self) -> bool:
        """Whether the evaluation of the checkpoint that was restored was completed."""
        return self.newest is None or "figures" in self.files.manifest().get(self.newest, {})

    def restore(self) -> int:
        """Load the newest complete checkpoint into all parts; return its iteration.

        Raises:
            ValueError: there is none, or its parameters are not the model's.
        """
        name, state = self._read_newest()
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

    def _read_newest(self) -> tuple[str, State]:
        """The main process chooses the file; the others read the same, or fail as it does."""
        if comm.get_world_size() == 1:
            return self.files.newest_complete()
        found: list[Any] = [None]
        state: State = {}
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


class CheckpointFiles:
    """The checkpoint files of a folder; only one process writes.

    Whatever interrupts the writing, power cuts and full disks included, the files from before stay
    as they are, and a new one is recognized as complete or torn.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Checkpoint files that exist, complete or torn."""
        return sorted(p.name for p in self.folder.glob("model_*.pth") if PATTERN.fullmatch(p.name))

    def write(self, name: str, state: State, iteration: int) -> None:
        """Write `state` under a name; a file of that name is replaced once the new one is verified.

        Raises:
            OSError: there is no room, or what was written does not read back; nothing changed.
        """
        target = self.folder / name
        try:
            self._remember(name, iteration, save_state(target, state))
        except OSError as error:
            raise OSError(
                f"cannot save the checkpoint {target}: {error}. Earlier checkpoints are untouched"
            ) from error

    def link(self, source: str, name: str) -> None:
        """Give the contents of `source` a second name; on most disks that takes no room.

        Raises OSError where that fails; nothing changed then.
        """
        self._link(source, name)
        self._update(lambda files: files.update({name: dict(files[source])}))

    def _link(self, source: str, name: str) -> None:
        try:
            with atomic_write(self.folder / name, sync=False) as temporary:
                try:
                    os.link(self.folder / source, temporary)
                except OSError:  # a file system without links
                    shutil.copyfile(self.folder / source, temporary)
                    flush(temporary)
        except OSError as error:
            raise OSError(
                f"cannot save the checkpoint {self.folder / name}: {error}. Earlier checkpoints "
                "are untouched"
            ) from error

    def note_metrics(self, name: str, metrics: dict[str, float], is_best: bool) -> None:
        """Record a checkpoint's evaluation, and link it as the best; both or neither.

        Until the manifest has it, the evaluation counts as not made, and is repeated.
        """
        if is_best:
            self._link(name, BEST)

        def change(files: dict[str, Any]) -> None:
            files[name]["figures"] = metrics
            if is_best:
                files[BEST] = dict(files[name])

        self._update(change)

    def remove_all_but(self, number: int) -> None:
        """Remove numbered checkpoints except for the newest `number`."""
        numbered = [name for name in self.names() if name not in (FINAL, BEST)]
        for name in numbered[:-number]:
            (self.folder / name).unlink(missing_ok=True)
        if numbered[:-number]:
            self._update(lambda files: None)  # drops the entries of those that are gone

    def manifest(self) -> dict[str, Any]:
        """The entries of the files, {name: {iteration, bytes, sha256, saved, figures}}."""
        try:
            files = json.loads((self.folder / MANIFEST).read_text())["files"]
            return {str(name): dict(e) for name, e in files.items() if _is_complete(e)}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning(
                "%s cannot be read (%s); checkpoints are verified by reading them",
                self.folder / MANIFEST,
                error,
            )
            return {}

    def newest_complete(self) -> tuple[str, State]:
        """Read the newest complete checkpoint; newer, torn ones are renamed to `*.torn`.

        Raises:
            ValueError: there is none.
        """
        torn = []
        for name in self._newest_first():
            try:
                state = self._read(name)
            except ValueError as error:
                logger.warning("Checkpoint %s is left out: %s", self.folder / name, error)
                torn.append(name)
                continue
            if torn:
                for old in self.folder.glob("model_*.pth.torn"):  # large; keep the last attempt's
                    old.unlink(missing_ok=True)
                for other in torn:
                    with contextlib.suppress(OSError):
                        (self.folder / other).replace(self.folder / f"{other}.torn")
                self._update(lambda files: [files.pop(other, None) for other in torn])
            if name not in self.manifest():
                self._remember(name, state["iteration"], sha256_of(self.folder / name))
            return name, state
        there = ", ".join(torn)
        raise ValueError(
            f"no checkpoint in {self.folder} is complete (torn: {there}); start anew in another "
            "run_dir"
            if torn
            else f"there is no checkpoint in {self.folder}. Name the run's folder with "
            "run_dir=..., or drop resume=true to start anew"
        )

    def _newest_first(self) -> list[str]:
        known = self.manifest()

        def age(name: str) -> tuple[int, bool]:
            number = name.removeprefix("model_").removesuffix(".pth")
            if name in known:
                return known[name]["iteration"], number.isdigit()
            if number.isdigit():
                return int(number), True
            with contextlib.suppress(ValueError):  # only its contents have the number
                return int(self._read(name)["iteration"]), False
            return -1, False

        return sorted(self.names(), key=age, reverse=True)

    def _read(self, name: str) -> State:
        """Read a checkpoint on the CPU; nothing in it is executed.

        Raises:
            ValueError: it is not what was written.
        """
        path, known = self.folder / name, self.manifest().get(name)
        try:
            if known is not None and path.stat().st_size != known["bytes"]:
                raise ValueError(
                    f"it has {path.stat().st_size} bytes of {known['bytes']}: truncated"
                )
            if known is not None and sha256_of(path) != known["sha256"]:
                raise ValueError("its contents are not those that were written (SHA-256 differs)")
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "iteration" not in state:
                raise ValueError("it is no checkpoint of a run")
            return state
        except ValueError:
            raise
        except Exception as error:  # torch raises many kinds
            raise ValueError(f"it cannot be read: {str(error)[:200]}") from error

    def _remember(self, name: str, iteration: int, sha256: str) -> None:
        size = (self.folder / name).stat().st_size
        now = datetime.now().isoformat(timespec="seconds")
        entry = {"iteration": iteration, "bytes": size, "sha256": sha256, "saved": now}
        self._update(lambda files: files.update({name: entry}))
        write_text(self.folder / NEWEST, name)

    def _update(self, change: Callable[[dict[str, Any]], Any]) -> None:
        files = self.manifest()
        change(files)
        names = set(self.names())
        files = {name: entry for name, entry in files.items() if name in names}
        write_text(self.folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def _is_complete(entry: Any) -> bool:
    """Whether an entry of the manifest has what it takes to verify its file."""
    kinds = {"iteration": int, "bytes": int, "sha256": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(k), t) for k, t in kinds.items())
