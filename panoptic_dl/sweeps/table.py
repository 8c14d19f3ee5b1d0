"""The rows of a sweep: which they are, the folder of each, and what becomes of one that ends early.

A row is skipped when it is finished and continued when it is not; its errors end no other row.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from panoptic_dl.config import composition
from panoptic_dl.config.composition import is_choice
from panoptic_dl.config.run_identity import differences
from panoptic_dl.core.parallel import unheeded
from panoptic_dl.core.run_folder import (
    FAILED,
    NEWEST,
    REFUSED,
    STOPPED,
    ExitCode,
    Requeued,
    first_error_line,
    is_running,
    read_state,
)

IN_USE = "{}: another command trains this row, which is left to it"
NAMING = ("name", "weights")  # keys besides choices that decide which parts a row has


class SweepError(ValueError):
    """A sweep that cannot be; the message says how it could."""


def plan_sweep(config: DictConfig) -> dict[str, list[str]] | None:
    """The rows of Hydra's own sweeper: overrides by the name of the folder.

    The config is changed: `backbone=hrnet48` on the command line replaces the column `backbone` of
    a table, `sweep.seeds` repeats every row, and Hydra names the folders as they are named here.
    None for other sweepers, which decide as they go.

    Raises SweepError: two rows are the same, rows have different tables or seeds to repeat, or
    seeds are given twice, are none, or are for another sweeper.
    """
    sweeper, overrides = config.hydra.sweeper, config.hydra.overrides
    task: Any = OmegaConf.to_container(overrides.task, resolve=False)
    given, columns = [_key(text) for text in task], sweeper.get("params") or {}
    params = {key: value for key, value in columns.items() if key not in given}
    is_table = str(sweeper._target_).endswith(".BasicSweeper")
    if config.sweep.seeds is not None:
        _check_seeds(config.sweep.seeds, [*given, *params], is_table)
        params["seed"] = ",".join(str(seed) for seed in config.sweep.seeds)
    if columns or params:
        sweeper.params = params
    if not is_table:
        return None
    outer = GlobalHydra.instance()
    loader = outer.config_loader() if outer.is_initialized() else composition.loader()
    words = [*(f"{key}={value}" for key, value in params.items()), *task]
    parsed = OverridesParser.create(loader).parse_overrides(words)
    swept = [each.key_or_group for each in parsed if each.is_sweep_override()]
    # What decides which rows there are has been read before them, so rows cannot differ in it.
    if "sweep" in swept:
        raise SweepError("sweep=A,B: one table at a time; each has a folder of its own")
    if "sweep.seeds" in swept:
        raise SweepError("sweep.seeds=0,1 is no list: write sweep.seeds=[0,1]")
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    # What a row's folder is named after is composed once for all rows that choose the same.
    naming = [tuple(x for x in job if is_choice(x) or _key(x) in NAMING) for job in jobs]
    configs = {x: loader.load_sweep_config(config, list(x)) for x in dict.fromkeys(naming)}
    # Swept keys whose values follow the name: those that it lacks, or all where that is not enough.
    for added in ([key for key in swept if not is_choice(f"{key}=")], swept):
        left_out = {*given, *params} - set(added)
        folders = [
            _folder(configs[x], job, i, left_out)
            for i, (x, job) in enumerate(zip(naming, jobs, strict=True))
        ]
        if len(set(folders)) == len(folders):
            break
    else:
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise SweepError(f"two rows of this sweep are the same: {twice}")
    excluded = {*left_out, *config.hydra.job.config.override_dirname.exclude_keys}
    quoted = ",".join(f"'{key}'" for key in sorted(excluded))
    overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{quoted}]")
    return dict(zip(folders, map(list, jobs), strict=True))


def _check_seeds(seeds: Any, others: Sequence[str], is_table: bool) -> None:
    is_list = OmegaConf.is_list(seeds) and len(seeds) > 0
    if not is_list or len(set(seeds)) < len(seeds) or any(type(seed) is not int for seed in seeds):
        wanted = "sweep.seeds=[0,1,2]: whole numbers, each once"
        raise SweepError(f"sweep.seeds={seeds}: {wanted}")
    if "seed" in others:
        raise SweepError("sweep.seeds and seed: give one of them")
    if not is_table:
        raise SweepError("sweep.seeds repeats rows of a table; a search takes one seed, seed=N")


def _folder(config: DictConfig, job: Sequence[str], number: int, left_out: set[Any]) -> str:
    """The folder that Hydra will give a row: `hydra.sweep.subdir`, with the row's leaves set."""
    parsed = OverridesParser.create().parse_overrides(list(job))
    with read_write(config), open_dict(config):
        for each in parsed:
            if not (is_choice(str(each.input_line)) or each.is_delete()):
                OmegaConf.update(config, each.key_or_group, each.value())
        style = config.hydra.job.config.override_dirname
        config.hydra.job.num = config.hydra.job.id = number
        config.hydra.job.override_dirname = get_overrides_dirname(
            parsed, [*style.exclude_keys, *left_out], style.item_sep, style.kv_sep
        )
    return os.path.normpath(config.hydra.sweep.subdir)


def _key(override: str) -> Any:
    return OverridesParser.create().parse_override(override).key_or_group


class Finished(NamedTuple):
    """An experiment of a sweep that was finished before, or that another command trains."""

    metric: float | None  # the first one, in percent; None: it has none


@contextlib.contextmanager
def isolate_failures(job: Any) -> Iterator[None]:
    """In a sweep, let an error end its experiment only, and note it there in `failed.txt`.

    Ctrl-C and the signals that stop a run end the whole sweep. `job` is the job's `hydra` node.
    """
    if job.mode != RunMode.MULTIRUN:
        yield
        return
    folder = Path(job.runtime.output_dir)
    unheeded.clear()
    try:
        yield
        with contextlib.suppress(OSError):  # of an attempt before this one
            (folder / FAILED).unlink(missing_ok=True)
        if unheeded:  # of a row that was about to end: the next one is not begun
            raise SystemExit(ExitCode.INTERRUPTED)
    except SystemExit as stop:  # after its message
        if stop.code in STOPPED or isinstance(stop, Requeued):
            raise
        if is_running(folder):  # begun by another command in the same moment
            print(IN_USE.format(folder.name))
            return
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            text = stop.code.rpartition("\nerror: ")[2].removeprefix("error: ")
            note_failure(folder, text.partition("\n")[0])
        elif stop.code:
            line = getattr(stop, "line", None) or first_error_line(folder)
            note_failure(folder, line or f"exit code {stop.code}")


def resume_in_sweep(config: DictConfig, job: Any, facts: Mapping[str, Any]) -> Finished | None:
    """In a sweep, find out whether a training is finished; else set `config.resume` to continue it.

    `config`, not yet resolved, is that of the job, `job` its `hydra` node, `facts` its `identity`.
    Returns None for what is to be run; raises ValueError for a folder with other numbers.
    """
    if job.mode != RunMode.MULTIRUN or facts["mode"] != "train":
        return None
    folder = Path(job.runtime.output_dir)
    if is_running(folder):
        print(IN_USE.format(folder.name))
        return Finished(None)
    state = read_state(folder)
    if state.get("mode") == "train":
        is_finished = state["status"] == "finished"
        begun = is_finished or (folder / NEWEST).exists()
        same = not begun or state.get("config_hash") == facts["config_hash"]
        if not same and (keys := differences(config, folder)):
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            raise ValueError(
                f"{folder} holds this row with other numbers: {', '.join(list(keys)[:4])}"
                f"{more} differ. Choose another sweep_dir=FOLDER, or remove that folder to start "
                "anew"
            )
        if is_finished:
            print(f"{folder.name}: finished already, left as it is")
            return Finished(next(iter((state.get("metrics") or {}).values()), None))
    config.resume = config.resume or "auto"
    return None


def note_failure(folder: Path, line: str) -> None:
    """Print why a row of a sweep has failed, and keep it in the row's folder.

    The folder of a run that is finished stays as it is: the sweep's folder has the line.
    """
    print(f"this row of the sweep failed: {line}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        if read_state(folder).get("status") == "finished":
            with (folder.parent / REFUSED).open("a") as file:
                file.write(f"{folder.name}: {line}\n")
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILED).write_text(line + "\n")
