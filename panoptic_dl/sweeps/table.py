"""The rows of a sweep: which they are, and the folder of each, under the same name every time.

One row of a sweep: skipped when it is done, gone on with when it is not; it fails alone.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config.composition import compose, is_choice
from panoptic_dl.config.run_identity import differences, row_folder
from panoptic_dl.core.run_folder import (
    FAILED,
    NEWEST,
    STOPPED,
    Requeued,
    error_line,
    first_error_line,
    read_state,
)


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


class Finished(NamedTuple):
    """An experiment of a sweep that is finished already."""

    metric: float | None  # the first one, in percent; None: it has none


@contextlib.contextmanager
def isolate_failures(job: Any) -> Iterator[None]:
    """In a sweep, let an error end its experiment only, and note it there in `failed.txt`.

    Ctrl-C and the signals that stop a run end the whole sweep.

    Args:
        job: the `hydra` node of the job; outside of sweeps nothing is done.
    """
    if job.mode != RunMode.MULTIRUN:
        yield
        return
    folder = Path(job.runtime.output_dir)
    with contextlib.suppress(OSError):
        (folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except SystemExit as stop:  # after its message
        if stop.code in STOPPED or isinstance(stop, Requeued):
            raise
        if stop.code:
            _note_failure(folder, first_error_line(folder) or f"exit code {stop.code}")
    except Exception as error:
        traceback.print_exc()
        _note_failure(folder, error_line("".join(traceback.format_exception(error))))


def resume_in_sweep(config: DictConfig, job: Any, facts: Mapping[str, Any]) -> Finished | None:
    """In a sweep, find out whether a training is finished; else set `config.resume` to go on.

    Args:
        config: of the job, not yet resolved.
        job: its `hydra` node.
        facts: see `panoptic_dl.config.run_identity.identity`.

    Returns:
        None for what is to be run.

    Raises:
        ValueError: the folder holds this experiment with other numbers.
    """
    if job.mode != RunMode.MULTIRUN or facts["mode"] != "train":
        return None
    folder = Path(job.runtime.output_dir)
    state = read_state(folder)
    if state.get("mode") == "train":
        is_finished = state["status"] == "finished"
        begun = is_finished or (folder / NEWEST).exists()
        same = not begun or state.get("config_hash") == facts["config_hash"]
        if not same and (keys := differences(config, folder)):
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            raise ValueError(
                f"{folder} holds this row with other numbers: {', '.join(keys[:4])}"
                f"{more} differ. Choose another sweep_dir=FOLDER, or remove that folder to start "
                "anew"
            )
        if is_finished:
            print(f"{folder.name}: finished already, left as it is")
            return Finished(next(iter((state.get("metrics") or {}).values()), None))
    config.resume = config.resume or "auto"
    return None


def _note_failure(folder: Path, line: str) -> None:
    print(f"this row of the sweep failed: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).write_text(line + "\n")
