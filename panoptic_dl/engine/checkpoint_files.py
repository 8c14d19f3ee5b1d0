"""Checkpoint files of a run's folder: written whole or not at all, and known by their hashes.

`checkpoints.json`, the manifest, holds for each file its iteration, size, SHA-256 and the figures
of its evaluation; `last_checkpoint` holds the name of the newest file, as Detectron2 does.
"""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from panoptic_dl.weights.run_folder import FINAL, MANIFEST, NEWEST
from panoptic_dl.whole_files import flush, save_whole, sha256_of, write_text

logger = logging.getLogger(__name__)

BEST = "model_best.pth"
PATTERN = re.compile(r"model_(\d{7}|final|best)\.pth")
State = dict[str, Any]


class CheckpointFiles:
    """The checkpoints of one folder; only one process writes.

    Whatever interrupts the writing, power cuts and full disks included, the files from before stay
    as they are, and what is new is found to be whole or torn.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """Checkpoint files that are there, whole or not."""
        return sorted(p.name for p in self.folder.glob("model_*.pth") if PATTERN.fullmatch(p.name))

    def write(self, name: str, state: State, iteration: int) -> None:
        """Write `state` under a name; a file of that name is replaced once the new one is verified.

        Raises:
            OSError: there is no room, or what was written does not read back; nothing changed.
        """
        target = self.folder / name
        try:
            sha256 = save_whole(target, state)
            self._remember(name, iteration, sha256, target.stat().st_size)
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
        temporary = self.folder / f"{name}.partial"
        temporary.unlink(missing_ok=True)
        try:
            try:
                os.link(self.folder / source, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(self.folder / source, temporary)
                flush(temporary)
            temporary.replace(self.folder / name)
            temporary.unlink(missing_ok=True)  # renaming a link to the same file does nothing
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise OSError(
                f"cannot save the checkpoint {self.folder / name}: {error}. Earlier checkpoints "
                "are untouched"
            ) from error

    def note_figures(self, name: str, figures: dict[str, float], is_best: bool) -> None:
        """Remember a checkpoint's evaluation, and keep it as the best; all of it or nothing.

        Until the manifest says so, the evaluation counts as not made, and is made again.
        """
        if is_best:
            self._link(name, BEST)

        def change(files: dict[str, Any]) -> None:
            files[name]["figures"] = figures
            if is_best:
                files[BEST] = dict(files[name])

        self._update(change)

    def remove_leftovers(self) -> None:
        """Remove what a killed process was writing; only who holds the folder may."""
        for file in self.folder.glob("*.partial"):
            file.unlink(missing_ok=True)

    def remove_all_but(self, number: int) -> None:
        """Remove numbered checkpoints but for the newest `number`."""
        numbered = [name for name in self.names() if name not in (FINAL, BEST)]
        for name in numbered[:-number]:
            (self.folder / name).unlink(missing_ok=True)
        if numbered[:-number]:
            self._update(lambda files: None)  # which forgets those that are gone

    def manifest(self) -> dict[str, Any]:
        """What is known of the files, {name: {iteration, bytes, sha256, saved, figures}}."""
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
        """Read the newest checkpoint that is whole; torn ones are set aside as `*.torn`.

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
            if torn:  # a whole checkpoint each: one is enough to look into
                for old in self.folder.glob("model_*.pth.torn"):
                    old.unlink(missing_ok=True)
            for other in torn:  # else the next ones of their names, or their age, would mislead
                with contextlib.suppress(OSError):
                    (self.folder / other).replace(self.folder / f"{other}.torn")
            if torn:
                self._update(lambda files: [files.pop(other, None) for other in torn])
            if name not in self.manifest():
                path = self.folder / name
                self._remember(name, state["iteration"], sha256_of(path), path.stat().st_size)
            return name, state
        there = ", ".join(torn)
        raise ValueError(
            f"no checkpoint in {self.folder} is complete (torn: {there}); start anew in another "
            "run_dir"
            if torn
            else f"there is no checkpoint in {self.folder}. Name the run's folder with "
            "run_dir=..., or drop resume=true to start anew"
        )

    def _newest_first(self) -> Iterator[str]:
        known = self.manifest()

        def age(name: str) -> tuple[int, bool]:
            number = name.removeprefix("model_").removesuffix(".pth")
            if name in known:
                iteration = known[name].get("iteration", -1)
            elif number.isdigit():
                iteration = int(number)
            else:  # not known by name: its contents tell
                with contextlib.suppress(ValueError):
                    return int(self._read(name)["iteration"]), False
                iteration = -1
            return int(iteration), number.isdigit()

        return iter(sorted(self.names(), key=age, reverse=True))

    def _read(self, name: str) -> State:
        """Read a checkpoint on the CPU; nothing in it is executed.

        Raises:
            ValueError: it is not what was written.
        """
        path, known = self.folder / name, self.manifest().get(name)
        try:
            if known is not None and path.stat().st_size != known.get("bytes"):
                raise ValueError(
                    f"it has {path.stat().st_size} bytes of {known.get('bytes')}: truncated"
                )
            if known is not None and sha256_of(path) != known.get("sha256"):
                raise ValueError("its contents are not those that were written (SHA-256 differs)")
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "iteration" not in state:
                raise ValueError("it is no checkpoint of a run")
            return state
        except ValueError:
            raise
        except Exception as error:  # torch raises many kinds
            raise ValueError(f"it cannot be read: {str(error)[:200]}") from error

    def _remember(self, name: str, iteration: int, sha256: str, size: int) -> None:
        now = datetime.now().isoformat(timespec="seconds")
        entry = {"iteration": iteration, "bytes": size, "sha256": sha256, "saved": now}
        self._update(lambda files: files.update({name: entry}))
        write_text(self.folder / NEWEST, name)

    def _update(self, change: Callable[[dict[str, Any]], Any]) -> None:
        files = self.manifest()
        change(files)
        there = set(self.names())
        files = {name: entry for name, entry in files.items() if name in there}
        write_text(self.folder / MANIFEST, json.dumps({"files": files}, indent=1) + "\n")


def _is_complete(entry: Any) -> bool:
    """Whether an entry of the manifest says enough to verify its file by."""
    kinds = {"iteration": int, "bytes": int, "sha256": str}
    return isinstance(entry, dict) and all(isinstance(entry.get(k), t) for k, t in kinds.items())
