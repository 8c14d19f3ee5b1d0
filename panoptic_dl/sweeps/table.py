"""The rows of a sweep: which they are, and the folder of each, under the same name every time.

One row of a sweep: skipped when it is done, gone on with when it is not; it fails alone.
"""

import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config.composition import compose, is_choice
from panoptic_dl.config.run_identity import row_folder
from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import NEWEST, ExitCode, Requeued, error_line, read_state


class SweepError(ValueError):
    """A sweep that cannot be; the message says how it could."""


@dataclass(frozen=True)
class Plan:
    """What a sweep will run.

    Attributes:
        rows: overrides of each, by the name of its folder.
        unsaid: swept keys that stand in the folders' names, because the rows' names lack them.
    """

    rows: Mapping[str, list[str]]
    unsaid: list[str]


def narrow(config: DictConfig) -> None:
    """Let the command line's `backbone=hrnet48` stand in place of a table's `backbone` column."""
    params = config.hydra.sweeper.get("params")
    if params:
        given = {_key(text) for text in config.hydra.overrides.task}
        config.hydra.sweeper.params = {k: v for k, v in params.items() if k not in given}


def with_seeds(config: DictConfig) -> None:
    """Have `sweep.seeds` repeat every row of a sweep.

    Args:
        config: the sweep's own, `hydra` included; its sweeper gets the seeds.

    Raises:
        SweepError: seeds are given twice, are none, or the sweeper is not Hydra's own.
    """
    seeds = config.sweep.seeds
    if seeds is None:
        return
    wanted = "sweep.seeds=[0,1,2]: whole numbers, each once"
    if not OmegaConf.is_list(seeds) or not seeds or len(set(seeds)) < len(seeds):
        raise SweepError(f"sweep.seeds={seeds}: {wanted}")
    if not all(type(seed) is int for seed in seeds):
        raise SweepError(f"sweep.seeds={seeds}: {wanted}")
    params = config.hydra.sweeper.get("params") or {}
    if "seed" in params or "seed" in map(_key, config.hydra.overrides.task):
        raise SweepError("sweep.seeds and seed: give one of them")
    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        raise SweepError("sweep.seeds repeats rows of a table; a search takes one seed, seed=N")
    config.hydra.sweeper.params = {**params, "seed": ",".join(str(seed) for seed in seeds)}


def plan(config: DictConfig) -> Plan | None:
    """The rows of Hydra's own sweeper; None for others, which decide as they go.

    Args:
        config: the sweep's own, `hydra` included.

    Raises:
        SweepError: two rows are the same, or rows have different tables or seeds to repeat.
    """
    if not str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
        return None
    params = config.hydra.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in params.items()] + list(config.hydra.overrides.task)
    outer = GlobalHydra.instance()
    loader = outer.config_loader() if outer.is_initialized() else None  # for glob(...)
    overrides = OverridesParser.create(loader).parse_overrides(words)
    swept = [o.key_or_group for o in overrides if o.is_sweep_override()]
    _refuse_several_plans(swept)
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    mode = str(config.hydra.runtime.choices.get("mode"))
    modes = [next((_value(x) for x in job if _key(x) == "mode"), mode) for job in jobs]
    names = [_name(job) for job in jobs]
    said = [key for key in swept if is_choice(f"{key}=")]
    for unsaid in ([key for key in swept if key not in said], swept):
        folders = [
            row_folder(m, n, _said(j, unsaid)) for m, n, j in zip(modes, names, jobs, strict=True)
        ]
        if len(set(folders)) == len(folders):
            return Plan(dict(zip(folders, map(list, jobs), strict=True)), unsaid)
    twice = next(folder for folder in folders if folders.count(folder) > 1)
    raise SweepError(f"two rows of this sweep are the same: {twice}")


def leave_out(config: DictConfig, unsaid: Sequence[str]) -> None:
    """Have Hydra's names of jobs hold the keys `unsaid` only; see `row_folder`."""
    keys = {_key(text) for text in config.hydra.overrides.task} - set(unsaid)
    keys |= set(config.hydra.sweeper.get("params") or {}) - set(unsaid)
    text = ",".join(f"'{key}'" for key in sorted(keys))
    config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{text}]")


def _refuse_several_plans(swept: Sequence[str]) -> None:
    """What says which rows there are has been read before rows are, so rows cannot differ in it."""
    if "sweep" in swept:
        raise SweepError("sweep=A,B: one table at a time; each has a folder of its own")
    if "sweep.seeds" in swept:
        raise SweepError("sweep.seeds=0,1 is no list: write sweep.seeds=[0,1]")


def keep_plan(folder: Path, rows: Mapping[str, Sequence[str]]) -> None:
    """Write `sweep.json`, which says what a sweep's folder is to hold; see `Plan.rows`."""
    named = [{"folder": name, "overrides": list(each)} for name, each in rows.items()]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "name": folder.absolute().name, "rows": named}
    write_text(folder / "sweep.json", json.dumps(content, indent=1) + "\n")


def _name(job: Sequence[str]) -> str:
    needed = [text for text in job if is_choice(text) or _key(text) == "name"]
    return str(compose(needed).name)


def _said(job: Sequence[str], keys: Sequence[str]) -> str:
    """As Hydra's `hydra.job.override_dirname` has it."""
    return ",".join(sorted(text for text in job if _key(text) in keys))


def _value(override: str) -> str:
    return str(OverridesParser.create().parse_override(override).value())


def _key(override: str) -> Any:
    return OverridesParser.create().parse_override(override).key_or_group


FAILED = "failed.txt"  # in a row's folder: the first line of what the last attempt ended with
STOPPING = (ExitCode.SAVED, ExitCode.INTERRUPTED)  # these end the whole sweep


@dataclass(frozen=True)
class Standing:
    """How a row's folder was found.

    Attributes:
        finished: nothing is left to do.
        resume: what `resume` shall be.
        figure: the first figure of a finished row, in percent; None: it has none.
    """

    finished: bool
    resume: bool | str
    figure: float | None = None


@contextlib.contextmanager
def failing_alone(folder: Path) -> Iterator[None]:
    """Around a row: its error ends the row, not the sweep; Ctrl-C and SIGTERM end the sweep."""
    with contextlib.suppress(OSError):
        (folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except SystemExit as stop:  # which has said why
        if stop.code in STOPPING or isinstance(stop, Requeued):
            raise
        if stop.code:
            _note(folder, _first_error_line(folder) or f"exit code {stop.code}")
    except Exception as error:
        traceback.print_exc()
        _note(folder, error_line("".join(traceback.format_exception(error))))


def standing(
    folder: Path,
    facts: Mapping[str, Any],
    resume: bool | str,
    differences: Callable[[], Sequence[str]],
) -> Standing:
    """Whether a row is done, and how it goes on.

    Args:
        folder: of the row.
        facts: see `panoptic_dl.config.run_identity.identity`.
        resume: as the command has it; False, the default, becomes `auto` for training.
        differences: keys that its config and that in the folder have different.

    Raises:
        ValueError: the folder holds a row with other numbers.
    """
    state = read_state(folder)
    if facts["mode"] != "train" or state.get("mode") != "train":
        return Standing(False, "auto" if facts["mode"] == "train" and not resume else resume)
    begun = state["status"] == "finished" or (folder / NEWEST).exists()
    if begun and state.get("config_hash") != facts["config_hash"]:
        keys = list(differences())
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        raise ValueError(
            f"{folder} holds this row with other numbers: {', '.join(keys[:4]) or 'unknown'}{more} "
            "differ. Choose another sweep_dir=FOLDER, or remove that folder to start anew"
        )
    if state["status"] != "finished":
        return Standing(False, resume or "auto")
    figures = list((state.get("metrics") or {}).values())
    return Standing(True, resume, figures[0] if figures else None)


def _first_error_line(folder: Path) -> str | None:
    """The message that `user_errors` has left, without the error's type."""
    try:
        line = error_line((folder / "error.txt").read_text())
        return line.partition(": ")[2] or line
    except (OSError, UnicodeDecodeError):
        return None


def _note(folder: Path, line: str) -> None:
    print(f"this row of the sweep failed: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).write_text(line + "\n")
