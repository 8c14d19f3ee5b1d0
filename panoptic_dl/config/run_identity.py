"""What a run is: its parts, its command, and a hash of what its figures depend on.

The config that a run has left in its folder, ready to build the run's model from.

One output folder for all processes of a run, also where each of them runs Hydra by itself.

torchrun starts run.py once per process, `launch.machine_rank` once per machine. The first process
decides on the folder and keeps the records in it; the others are told, or must have been.
"""

import copy
import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from panoptic_dl.config.composition import is_choice

RESOLVED = ".hydra/resolved.yaml"  # the config that a run has left
ROW = ("dataset", "task", "backbone", "head")

# Where, how and in which words a run works. Figures do not depend on it (docs/long_runs.md says why
# workers, processes and interruptions do not), so it is no part of the hash.
NO_PART = (
    *("run_dir", "sweep_dir", "resume", "launch", "logger", "sweep", "name"),
    *("published", "published_note", "published_row", "choice"),
    *("benchmark", "browse", "demo", "doctor", "input"),
    *("train.num_workers", "train.log_period", "train.activation_checkpointing"),
    *("train.max_nonfinite_skips", "checkpoint.period", "checkpoint.kept", "checkpoint.on_error"),
    *("dataset.root.root", "dataset.cache.folder", "dataset.cache.max_gb"),
)
IN_EVALUATION = ("scales", "flip")  # the rest of it is printed, drawn and saved beside
PLACES = (  # words of a command that say where, not what
    *("run_dir", "resume", "sweep_dir", "dataset.root.root", "dataset.cache.folder"),
)


def identity(config: DictConfig, hydra: Any) -> dict[str, Any]:
    """The part of `run.json` that is known before a run begins.

    Args:
        config: of the job, not yet resolved: what does not matter is taken out before copies of
            it are made.
        hydra: the job's `hydra` node.
    """
    tree: Any = OmegaConf.to_container(config, resolve=False)
    overrides = list(hydra.overrides.task)
    mode = str(hydra.runtime.choices.get("mode"))
    in_sweep = hydra.mode == RunMode.MULTIRUN
    return {
        "name": _value(config, "name"),
        "mode": mode,
        "row": "_".join(str(tree["choice"].get(group)) for group in ROW),
        "choices": choices(hydra),
        "overrides": overrides,
        "command": command(overrides, search=in_sweep and not is_table(hydra.sweeper._target_)),
        "sweep": Path(hydra.sweep.dir).absolute().name if in_sweep else None,
        "seed": _value(config, "seed"),
        "config_hash": config_hash(config, mode),
        "config_hash_any_seed": config_hash(config, mode, any_seed=True),
        "recipe": _value(config, "recipe_record"),
        "train": {
            key: _value(config, f"train.{key}") for key in ("iterations", "batch_size", "precision")
        },
        **{key: _value(config, key) for key in ("published", "published_row", "published_note")},
    }


def choices(hydra: Any) -> dict[str, str]:
    """The option of each group; Hydra's own are left out, and groups without one."""
    return {
        str(group).partition("@")[0]: str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None and not str(group).startswith("hydra/")
    }


def is_table(sweeper: str) -> bool:
    """Whether it is Hydra's own sweeper, which runs all rows; others search."""
    return sweeper.endswith(".BasicSweeper")


def command(overrides: Sequence[str], *, search: bool = False) -> str:
    """The command that repeats one run by itself, without folders of this machine.

    A row of a table brings the table's numbers, `-m sweep=toy`, and is its only row. A trial of a
    search has all of its numbers in its overrides; with `sweep=` it would search.
    Of a path from the root, such as `weights=/data/x.pth`, the last part is left.
    """
    words = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") in PLACES or key.startswith("sweep.") or (search and key == "sweep"):
            continue
        words.append(f"{key}={Path(value).name}" if value.startswith(("/", "~")) else override)
    table = [word for word in words if word.startswith("sweep=")]
    return shlex.join(["python", "run.py", *(["-m"] if table else []), *words])


def config_hash(config: DictConfig, mode: str, *, any_seed: bool = False) -> str:
    """SHA-256 of what a run's figures depend on, in hexadecimal digits.

    Interpolations count as they are written: what they lead to is in the config itself, or belongs
    to the machine.

    Args:
        any_seed: runs that differ in their seed only have the same one.
    """
    tree: Any = OmegaConf.to_container(config, resolve=False)
    left = figures_config(tree)
    if any_seed:
        left.pop("seed", None)
    return hashlib.sha256(json.dumps([mode, _flat(left)], sort_keys=True).encode()).hexdigest()


def figures_config(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what figures do not depend on, and without `mode`: copies of the rest."""
    left: dict[str, Any] = copy.deepcopy(dict(tree))
    for key in (*NO_PART, "mode"):
        *parents, leaf = key.split(".")
        node: Any = left
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    evaluation = left.get("evaluation") or {}
    left["evaluation"] = {key: evaluation.get(key) for key in IN_EVALUATION}
    return left


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys of two configs' values that differ, originals before the copies in `task`."""
    first, second = _flat(one), _flat(other)
    different = [
        key
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key) or (key in first) != (key in second)
    ]
    return sorted(different, key=lambda key: key.startswith("task."))


def differences(config: DictConfig, folder: Path) -> list[str]:
    """Keys that figures depend on and that the run in `folder` had otherwise."""
    saved = OmegaConf.to_container(OmegaConf.load(folder / RESOLVED))
    here = OmegaConf.to_container(config, resolve=True)
    if not isinstance(saved, dict) or not isinstance(here, dict):
        return []
    return differing_keys(*(figures_config(cast(Any, tree)) for tree in (saved, here)))


def plain_yaml(config: DictConfig) -> str:
    """The whole config, resolved, for `.hydra/resolved.yaml`."""
    return OmegaConf.to_yaml(config, resolve=True)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted names; lists are leaves. What holds nothing is left out."""
    if not isinstance(tree, Mapping):
        return {} if tree is None else {prefix.removesuffix("."): tree}
    found = {}
    for key, value in tree.items():
        found.update(_flat(value, f"{prefix}{key}."))
    return found


def _value(config: DictConfig, key: str) -> Any:
    """A value of plain Python, or None where it is missing or cannot be resolved."""
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except Exception:
        return None


CONFIG = ".hydra/config.yaml"
CLASSES = "classes.json"  # which a run leaves beside its weights
ROW_TEMPLATE = ("backbone", "head", "dataset", "task")
PARTS = (*ROW_TEMPLATE, "decoder", "pixels", "choice")


class SavedConfigError(ValueError):
    """A folder is no run's, or its config is damaged; the message names the file."""


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds the config of a run."""
    return (Path(folder) / CONFIG).is_file()


def saved_config(folder: str | Path) -> DictConfig:
    """Read a run's config, unresolved; reading it runs nothing.

    Where the run has left its classes, they are put in the place of what would read the dataset, so
    that a model can be built where its dataset is not.

    Raises:
        SavedConfigError: there is none, or it is damaged.
    """
    folder = Path(folder)
    file = folder / CONFIG
    if not file.is_file():
        raise SavedConfigError(
            f"{folder} is no run folder of ours: {file} is missing; name one such as "
            "outputs/NAME/TIME, or for weights without a run choose backbone=, head=, dataset= "
            "and task= as they were trained, with weights=FILE"
        )
    try:
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise TypeError("no table")
        for part in PARTS:
            if not isinstance(config[part], DictConfig):
                raise TypeError(f"{part} is no table")
    except RecursionError as error:
        raise SavedConfigError(f"{file} is damaged: it is nested too deeply") from error
    except (
        *(OmegaConfBaseException, YAMLError, ValueError, OSError),
        *(AttributeError, TypeError, KeyError),
    ) as error:
        raise SavedConfigError(f"{file} is damaged: {str(error)[:500]}") from error
    if (folder / CLASSES).is_file():
        _with_classes(config, folder / CLASSES)
    elif "classes" not in config.dataset:
        raise SavedConfigError(
            f"{file} is of a run from before runs knew the names of their classes: put a "
            f"{CLASSES} into {folder}, such as "
            '{"names": ["road", "car"], "colors": [[128, 64, 128], [0, 0, 142]], "thing_ids": [1]}'
        )
    return config


def _with_classes(config: DictConfig, file: Path) -> None:
    try:
        classes: Any = json.loads(file.read_bytes())
        names, colors, things = (classes[key] for key in ("names", "colors", "thing_ids"))
        fits = (
            isinstance(classes, Mapping)
            and all(type(name) is str for name in names)
            and all(
                len(c) == 3 and all(type(v) is int and 0 <= v <= 255 for v in c) for c in colors
            )
            and len(colors) == len(names) > 0
            and all(type(thing) is int and 0 <= thing < len(names) for thing in things)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SavedConfigError(f"{file} is damaged: {error!r}") from error
    if not fits:
        raise SavedConfigError(
            f"{file} is damaged: it holds names, as many colors [red, green, blue] of 0..255, and "
            "thing_ids among them"
        )
    with open_dict(config):
        config.dataset.num_classes = len(names)
        config.dataset.thing_ids = list(things)
        config.dataset.classes = {
            "_target_": "panoptic_dl.core.classes.Classes",
            "names": [_escaped(name) for name in names],
            "colors": [list(color) for color in colors],
            "thing_ids": list(things),
        }


def _escaped(name: str) -> str:
    """A text that stays itself: no interpolation."""
    return name.replace("${", "\\${")


def with_run_of_weights(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Take the parts of a run's config where `weights` is of a run, so that nobody repeats them.

    That is a run folder, or a file in one; otherwise the config stays as it is. Leaves that are
    overridden, such as `dataset.center_threshold=0.3`, hold for the run's parts, too.

    Args:
        config: as composed.
        overrides: what stood on the command line.

    Raises:
        SavedConfigError: the run's config is damaged, or other parts are asked for.
    """
    if not isinstance(config.weights, str):
        return config
    weights = Path(config.weights).expanduser()
    folder = weights if weights.is_dir() else weights.parent
    if not is_run(folder):
        return config
    saved = saved_config(folder)
    _refuse_other_parts(config, saved, overrides, folder)
    config = config.copy()
    with open_dict(config):
        for part in PARTS:
            config[part] = saved[part]
        for override in _leaves(overrides):
            key = override.key_or_group
            if override.is_delete() or override.is_add():
                raise SavedConfigError(
                    f"{override.input_line}: with weights= of a run its config is used, where "
                    "values can be changed, and none added or removed"
                )
            OmegaConf.update(config, key, override.value(), merge=False)
    return config


def _refuse_other_parts(
    config: DictConfig, saved: DictConfig, overrides: Sequence[str], folder: Path
) -> None:
    chosen = {text.partition("=")[0] for text in overrides if is_choice(text)}
    for group in ROW_TEMPLATE:
        mine, theirs = config.choice[group], saved.choice.get(group)
        if mine != theirs and {group, "experiment"} & chosen:
            said = group if group in chosen else "experiment"
            raise SavedConfigError(
                f"weights={config.weights}: that run has {group}={theirs}, not {group}={mine}: "
                f"leave {said}= out, for the config in {folder / CONFIG} is used"
            )


def _leaves(overrides: Sequence[str]) -> list[Any]:
    """Parsed overrides of leaves in the parts of a row."""
    texts = [text for text in overrides if not is_choice(text)]
    parsed = OverridesParser.create().parse_overrides(texts)
    return [o for o in parsed if o.key_or_group.partition(".")[0] in PARTS]


_store = None


def under_torchrun() -> bool:
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_first(config: DictConfig) -> bool:
    """Whether this process writes what is written once per run."""
    if under_torchrun():
        return int(os.environ["RANK"]) == 0
    return config.launch.machine_rank == 0


def agree_on_folder(config: DictConfig) -> Path:
    """The output folder of a single run, the same one in all its processes.

    Args:
        config: the whole config, `hydra` included.

    Raises:
        ValueError: each machine or attempt would make a folder of its own.
    """
    folder = Path(config.hydra.run.dir)
    dated = has_time(config.hydra.run, config)
    if under_torchrun():
        if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0 and dated:
            raise ValueError(
                "torchrun --max-restarts has to find the folder again: name it, "
                "run_dir=/shared/folder, and add resume=auto"
            )
        return Path(_ask_first(str(folder.absolute())))
    if config.launch.num_machines > 1 and dated:
        raise ValueError(
            "several machines share one folder: give all of them the same run_dir=/shared/folder"
        )
    return folder


def has_time(place: Any, config: DictConfig) -> bool:
    """Whether the folder of a run or sweep is named after the time of its start.

    Args:
        place: `hydra.run` or `hydra.sweep`.
        config: has `run_dir` and `sweep_dir`, which the folder usually is.
    """
    folder = _as_written(place, "dir")
    for key in ("run_dir", "sweep_dir"):
        if f"${{{key}}}" in folder:
            folder += _as_written(config, key)
    return "${now:" in folder


def _as_written(node: Any, key: str) -> str:
    tree: Any = OmegaConf.to_container(node, resolve=False)
    return str(tree[key])


def found_again(hydra: Any, config: DictConfig) -> bool:
    """Whether this job, requeued, has the same output folder: submitit keeps that of a sweep."""
    if hydra.mode != RunMode.MULTIRUN:
        return not has_time(hydra.run, config)
    return "submitit" in hydra.launcher._target_ or not has_time(hydra.sweep, config)


def _ask_first(folder: str) -> str:
    """What rank 0 of torchrun answers, which is `folder` there."""
    from torch.distributed.rendezvous import rendezvous  # seconds, and only torchrun needs it

    global _store  # kept: where rank 0 itself serves it, training meets in the same one
    _store, rank, _ = next(rendezvous("env://"))
    if rank == 0:
        _store.set("panoptic_dl/run_dir", folder)
    return _store.get("panoptic_dl/run_dir").decode()
