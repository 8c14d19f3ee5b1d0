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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n
from torch import nn
from torch.optim import Optimizer

from panoptic_dl.core.errors import disk_error
from panoptic_dl.core.files import (
    atomic_write,
    flush,
    read_json,
    remove_temporary_files,
    require_file,
    save_state,
    sha256_of,
    write_text,
)
from panoptic_dl.core.parallel import size_text
from panoptic_dl.core.run_folder import BEST, FINAL, MANIFEST, NEWEST
from panoptic_dl.core.settings import CheckpointSettings
from panoptic_dl.evaluation.metrics import is_better
from panoptic_dl.loggers.base import Loggers
from panoptic_dl.weights.names import not_finite

PATTERN = re.compile(r"model_(\d{7}|final|best)\.pth")
OVERRIDES = "resume with the overrides that the run was started with (.hydra/overrides.yaml there)"
SPLIT = ("dataset", "num_images", "records")  # entries of results that say what was measured
EXTRA_CHECKPOINTS = 2  # besides the numbered ones: the best, and one that is being written
State = dict[str, Any]

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def writing(what: str, file: Path, on_error: str) -> Iterator[None]:
    """Raise or log an OSError of writing `what` to a file, as `checkpoint.on_error` says."""
    try:
        yield
    except OSError as error:
        message = f"cannot write {what} {file}: {disk_error(error, file)}"
        if on_error == "stop":
            if file.parent.is_dir():
                message += ". Checkpoints from before are untouched: resume=true goes on from them"
            raise OSError(message) from error
        message += "; training goes on (checkpoint.on_error=continue)"
        log_first_n(logging.ERROR, message, key="message")


def optimizer_copies(optimizer: Optimizer) -> int:
    """How many tensors SGD, Adam and their like keep of each parameter."""
    return 2 if "betas" in optimizer.defaults else int(bool(optimizer.defaults.get("momentum")))


def checkpoint_bytes(model: nn.Module, optimizer: Optimizer, *, ema: bool) -> int:
    """The size of a checkpoint, perhaps with an average of the weights."""
    weights = sum(t.nbytes for t in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return weights * (1 + ema) + trained * optimizer_copies(optimizer)


@dataclass(eq=False)
class RunCheckpoints:
    """The checkpoints of a run; every process has this object, the main one writes.

    A state holds no random generators: what is random in training is a function of the seed and the
    iteration (see `Trainer`), or of the position in the data stream. Whatever interrupts the
    writing, power cuts and full disks included, the files from before stay as they are, and a new
    one is recognized as complete or torn.
    """

    folder: Path
    settings: CheckpointSettings
    parts: Mapping[str, Any]  # with a state, by their names in the file; `model` without its DDP
    loggers: Loggers  # get every checkpoint, and which is the best
    newest: str | None = field(default=None, init=False)  # of the state in memory
    _torn: Sequence[str] = field(default=(), init=False)  # files that were left out

    def check_room(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Say whether the disk has room for the checkpoints to be kept; OSError if not for one."""
        if not comm.is_main_process():
            return
        size = checkpoint_bytes(model, optimizer, ema="ema" in self.parts)
        there = [os.stat(self.folder / name) for name in self.names()]
        room = shutil.disk_usage(self.folder).free
        room += sum({each.st_ino: each.st_size for each in there}.values())
        count = self.settings.kept + EXTRA_CHECKPOINTS
        if room < count * size:
            text = (
                f"{self.folder} has room for {size_text(room)}, and {count} checkpoints (the "
                f"newest, checkpoint.kept={self.settings.kept}; the best; one being written) take "
                f"{count} x {size_text(size)}: free some, keep fewer, or choose another run_dir"
            )
            if room < size and self.settings.on_error == "stop":
                raise OSError(text)
            logger.warning(text)

    def names(self) -> list[str]:
        """Checkpoint files that exist, complete or torn."""
        return sorted(p.name for p in self.folder.glob("model_*.pth") if PATTERN.fullmatch(p.name))

    def save(self, iteration: int, *, final: bool = False, must: bool = False) -> None:
        """Write the state after an iteration, once; called by all processes.

        The main process writes and the others wait: the first that ends has the launcher end all.
        `final` links it as `model_final`, too; `must` raises whatever `on_error` is: OSError.

        Raises FloatingPointError, and writes nothing, when a weight is infinite or not a number.
        """
        if comm.is_main_process():
            name = f"model_{iteration:07d}.pth"
            on_error = "stop" if must else self.settings.on_error
            with writing("the checkpoint", self.folder / name, on_error):
                if self.newest != name:
                    self.newest = None
                    self._write(name, iteration)
                    self.newest = name
                    logger.info("Saved %s", os.path.relpath(self.folder / name))
                    self._remove_old()
                    self.loggers.checkpoint(self.folder / name, iteration, best=False)
                if final:
                    self._link(name, FINAL, self._manifest()[name])
        comm.synchronize()

    def _write(self, name: str, iteration: int) -> None:
        """Write all states; a file of that name is replaced once the new one is verified."""
        state = {key: part.state_dict() for key, part in self.parts.items()}
        for tensor in not_finite(state):
            raise FloatingPointError(
                f"{tensor} is infinite or not a number after iteration {iteration}: no "
                "checkpoint is written, the last one is from before"
            )
        sha256 = save_state(self.folder / name, state | {"iteration": iteration})
        self._record(name, iteration, sha256)

    def _record(self, name: str, iteration: int, sha256: str) -> None:
        size = (self.folder / name).stat().st_size
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        entry = {"iteration": iteration, "bytes": size, "sha256": sha256, "saved": now}
        self._update({name: entry})
        write_text(self.folder / NEWEST, name)

    def _link(self, source: str, name: str, entry: dict[str, Any]) -> None:
        """Give the contents of `source` a second name, and both this entry in the manifest."""
        with atomic_write(self.folder / name, sync=False) as temporary:
            try:
                os.link(self.folder / source, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(self.folder / source, temporary)
                flush(temporary)
        self._update({source: entry, name: entry})

    def _remove_old(self) -> None:
        """Remove numbered checkpoints except for the newest `kept`."""
        numbered = [name for name in self.names() if name not in (FINAL, BEST)]
        for name in numbered[: -self.settings.kept]:
            (self.folder / name).unlink(missing_ok=True)
        if numbered[: -self.settings.kept]:
            self._update({})

    def name_final(self) -> None:
        """Link the checkpoint that was restored, of a run's last step, as `model_final`."""
        if comm.is_main_process() and self.newest is not None:
            self._link(self.newest, FINAL, self._manifest()[self.newest])
            self._remove_old()

    def note_metrics(self, metrics: dict[str, float], split: Mapping[str, Any]) -> None:
        """Record the metrics of the newest checkpoint; link it as `model_best` if it is.

        Until the manifest has them, the evaluation counts as not made, and is repeated. Those of
        another split (`SPLIT`) are not compared.
        """
        if not comm.is_main_process() or self.newest is None or not metrics:
            return
        name = self.settings.best or next(iter(metrics))
        if name not in metrics:
            raise ValueError(
                f"checkpoint.best={name} is no metric of this evaluation; choose one of "
                + ", ".join(metrics)
            )
        with writing("the metrics of", self.folder / self.newest, self.settings.on_error):
            files = self._manifest()
            before = files.get(BEST, {})
            best = before.get("figures", {}).get(name)
            if before.get("split", split) != split:
                best = None
                others = ", ".join(map(str, before["split"].values()))
                logger.warning(
                    f"{BEST} was chosen on other validation images ({others}), so {self.newest} "
                    "takes its place"
                )
            # NaN, a metric that is not defined, is better than nothing and worse than any other.
            is_best = best is None or best != best or is_better(name, metrics[name], best)
            entry = files[self.newest] | {"figures": metrics, "split": split}
            if is_best:
                self._link(self.newest, BEST, entry)
                self.loggers.checkpoint(self.folder / self.newest, entry["iteration"], best=True)
            else:
                self._update({self.newest: entry})

    def best(self) -> str:
        """The metric of `model_best`, such as "best PQ 61.02 (iteration 250)"; "" where none is."""
        entry = self._manifest().get(BEST, {})
        figures = entry.get("figures") or {}
        name = self.settings.best or next(iter(figures), "")
        if name not in figures:
            return ""
        return f"best {name} {figures[name]:.4g} (iteration {entry['iteration'] + 1})"

    def metrics(self) -> dict[str, float] | None:
        """Of the checkpoint that was restored; None where its evaluation was not completed."""
        return self._manifest().get(str(self.newest), {}).get("figures")

    def _manifest(self) -> dict[str, Any]:
        """The entries of the files, {name: {iteration, bytes, sha256, saved, figures}}."""
        try:
            return read_json(self.folder / MANIFEST)["files"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            file = self.folder / MANIFEST
            logger.warning(
                f"{file} cannot be read ({error}); checkpoints are verified by reading them"
            )
            return {}

    def _update(self, changes: dict[str, Any]) -> None:
        """Change entries of the manifest, and drop those of files that are gone."""
        names = set(self.names())
        files = {n: entry for n, entry in (self._manifest() | changes).items() if n in names}
        write_text(self.folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")

    def restore(self) -> int:
        """Load the newest complete checkpoint into all parts; return its iteration.

        Nothing in the folder changes, see `tidy`. ValueError: there is none, or it does not fit.
        """
        state: State = {}
        if comm.is_main_process():
            self.newest, state = self._newest_complete()
        self.newest = comm.all_gather(self.newest)[0]
        path = self.folder / str(self.newest)
        if not comm.is_main_process():
            if not path.is_file():
                raise ValueError(
                    f"{path} is not seen by process {comm.get_rank()}: run_dir must be a folder "
                    "that all machines share"
                )
            state = torch.load(path, map_location="cpu", weights_only=True)
        if ("ema" in state) != ("ema" in self.parts):
            there = "one" if "ema" in state else "no moving average of the weights"
            raise ValueError(
                f"train.ema is {'set' if 'ema' in self.parts else 'null'}, but the checkpoint "
                f"{path} has {there}: {OVERRIDES}"
            )
        for key, part in self.parts.items():
            try:
                part.load_state_dict(state[key])
            except (KeyError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the checkpoint {path} does not fit the run's {key}; {OVERRIDES}. "
                    f"{str(error)[:300]}"
                ) from error
        logger.info("Resumed from %s", path)
        return int(state["iteration"])

    def tidy(self, start: int) -> None:
        """Clear up what attempts before have left, once this one, from `start` on, is accepted."""
        remove_temporary_files(self.folder)
        if self._torn:
            for old in self.folder.glob("model_*.pth.torn"):  # large; keep the last attempt's
                old.unlink(missing_ok=True)
            for name in self._torn:
                with contextlib.suppress(OSError):
                    (self.folder / name).replace(self.folder / f"{name}.torn")
        if self.newest is not None and self.newest not in self._manifest():
            self._record(self.newest, start - 1, sha256_of(self.folder / self.newest))

    def _newest_complete(self) -> tuple[str, State]:
        """Read the newest complete checkpoint, on the CPU; newer, torn ones are left out."""
        files = self._manifest()
        torn: list[str] = []

        def age(name: str) -> tuple[int, bool]:
            number = name.removeprefix("model_").removesuffix(".pth")
            unknown = int(number) if number.isdigit() else -1
            return files.get(name, {}).get("iteration", unknown), number.isdigit()

        for name in sorted(self.names(), key=age, reverse=True):
            path = self.folder / name
            try:
                require_file(path)
                if name in files and sha256_of(path) != files[name]["sha256"]:
                    raise ValueError("its contents are not those that were written (SHA-256)")
                state = torch.load(path, map_location="cpu", weights_only=True)
                if "iteration" not in state:
                    raise ValueError("it is no checkpoint of a run")
            except Exception as error:  # torch raises many kinds
                logger.warning("Checkpoint %s is left out: %s", path, str(error)[:200])
                torn.append(name)
                continue
            self._torn = torn
            return name, state
        if torn:
            raise ValueError(
                f"no checkpoint in {self.folder} is complete (torn: {', '.join(torn)}); start anew "
                "in another run_dir"
            )
        raise ValueError(
            f"there is no checkpoint in {self.folder}. Name the run's folder with run_dir=..., or "
            "drop resume=true to start anew"
        )
