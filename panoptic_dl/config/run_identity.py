"""What a run is: its parts, its command, its folder, and a hash of what its metrics depend on."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tabulate import tabulate

from panoptic_dl.config.builder import current_name
from panoptic_dl.core.errors import one_line
from panoptic_dl.core.files import PROGRAM
from panoptic_dl.core.run_folder import RESOLVED
from panoptic_dl.core.settings import experiment_name

MAX_ROWS = 20  # of a table of differences
LONGEST = 150  # characters of a folder's name; file systems take 255 bytes

# Where, how and under which names a run works. Metrics do not depend on it, so it is no part of
# the hash (docs/explanation/resume.md: why workers, processes and interruptions are none).
NO_PART = (
    *("run_dir", "sweep_dir", "resume", "resume_changed", "launch", "logger", "sweep", "name"),
    *("published", "published_note", "published_row", "choice", "mode", "benchmark", "browse"),
    *("demo", "doctor", "export", "input", "train.num_workers", "train.log_period"),
    *("train.activation_checkpointing", "train.max_nonfinite_skips", "checkpoint.period"),
    *("checkpoint.kept", "checkpoint.on_error", "dataset.root.root", "dataset.cache.folder"),
    *("dataset.cache.max_gb", "recipe_record.choices"),
)
# Later than saved configs.
NEW_KEYS = (
    *("recipe_record.warmup_iters", "recipe_record.epochs", "dataset.test_split"),
    *("weights_match", "backbone.freeze_at", "evaluation.precision"),
)
IN_EVALUATION = ("scales", "flip", "precision")  # the rest is printed, drawn and saved besides
# What a training that goes on may change: its length, its hardware, when it is evaluated; weights
# are in its checkpoint, and the records of the dataset are compared by themselves.
FREE = (
    *("train.epochs", "train.early_stop"),
    *("train.iterations", "train.images_per_gpu", "train.accumulate", "train.channels_last"),
    *("train.compile", "train.eval_period", "train.eval_at_end", "checkpoint.best", "weights"),
    *("weights_match", "dataset.root"),
)
PLACES = (
    *("run_dir", "resume", "resume_changed", "sweep_dir", "dataset.root.root"),
    "dataset.cache.folder",
)


def identity(config: DictConfig, hydra: Any) -> dict[str, Any]:
    """The part of `run.json` that is known before a run begins.

    `config` is not yet resolved, `hydra` its node: what does not matter is taken out before copies
    of it are made.
    """
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    mode = str(hydra.runtime.choices.get("mode"))
    in_sweep = hydra.mode == RunMode.MULTIRUN
    search = in_sweep and not hydra.sweeper._target_.endswith(".BasicSweeper")  # Hydra's own
    return {
        "name": resolved_value(config, "name"),
        "mode": mode,
        "row": experiment_name(config.choice),
        "choices": {  # Hydra's own are left out, and groups without an option
            str(group).partition("@")[0]: str(option)
            for group, option in hydra.runtime.choices.items()
            if option is not None and not str(group).startswith("hydra/")
        },
        "overrides": overrides,
        "command": command(overrides, search=search),
        "sweep": Path(hydra.sweep.dir).absolute().name if in_sweep else None,
        "seed": resolved_value(config, "seed"),
        "config_hash": _config_hash(config, mode),
        "config_hash_any_seed": _config_hash(config, mode, any_seed=True),
        "recipe": resolved_value(config, "recipe_record"),
        "train": {
            key: resolved_value(config, f"train.{key}")
            for key in ("iterations", "batch_size", "precision")
        },
        **{
            key: resolved_value(config, key)
            for key in ("published", "published_row", "published_note")
        },
    }


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
    return shlex.join([*PROGRAM.split(), *(["-m"] if table else []), *words])


def row_folder(mode: str, name: str, overrides: str) -> str:
    """The folder of a row of a sweep: mode if it is not training, name, overrides not in the name.

    Long ones end in a hash of the rest; characters that file systems dislike become `_`.
    """
    text = "-".join(filter(None, ["" if mode == "train" else mode, name, overrides]))
    safe = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)
    if safe != text or len(safe) > LONGEST or not safe.strip("."):
        ending = hashlib.sha256(text.encode()).hexdigest()[:8]
        safe = f"{safe[: LONGEST - 9]}-{ending}"
    return safe


def _config_hash(config: DictConfig, mode: str, *, any_seed: bool = False) -> str:
    """SHA-256 of what a run's metrics depend on, in hexadecimal digits; perhaps but for the seed.

    Interpolations count as they are written: what they lead to is in the config itself, or belongs
    to the machine.
    """
    left = relevant_config(OmegaConf.to_container(config, resolve=False))
    if any_seed:
        left.pop("seed", None)
    return hashlib.sha256(json.dumps([mode, _flat(left)], sort_keys=True).encode()).hexdigest()


def relevant_config(tree: Any) -> dict[str, Any]:
    """Remove from a plain config, in place, what metrics do not depend on."""
    for key in NO_PART:
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(leaf, None)
    evaluation = tree.get("evaluation") or {}
    tree["evaluation"] = {key: evaluation.get(key) for key in IN_EVALUATION}
    return tree


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys of two configs' values that differ, originals before the copies in `task`."""
    first, second = _flat(one), _flat(other)
    keys = [key for key in {*first, *second} if first.get(key) != second.get(key)]
    return sorted(keys, key=lambda key: (key.startswith("task."), key))


def differences(config: DictConfig, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Keys that metrics depend on and that the run in `folder` had otherwise: its value, and ours.

    What the config takes from another key is not compared, for that key is, unless the run had set
    it by itself. Names that have moved are the same. ValueError for a config that is not there.
    """
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(folder / RESOLVED))
        if "mode" not in tree:  # which comes last
            raise ValueError("it is torn")
    except Exception as error:  # PyYAML and OmegaConf raise many kinds on damaged files
        why = f"{folder / RESOLVED} does not tell which numbers it had: {one_line(error)}"
        raise ValueError(why) from error
    everything = _flat(tree)
    saved = _flat(relevant_config(tree))
    here = _flat(relevant_config(OmegaConf.to_container(config, resolve=False)))
    copies = set()
    for key, value in here.items():
        if "${" in str(value):
            source = everything.get(str(value)[2:-1])  # None: a node, or calculated
            here[key] = resolved_value(config, key)
            if source in (None, saved.get(key)) or key not in saved:
                copies.add(key)
    copies |= set(NEW_KEYS) - saved.keys()  # of an earlier version
    below = tuple(f"{key}." for key in copies)
    return {
        key: (saved.get(key), here.get(key))
        for key in differing_keys(saved, here)
        if key not in copies and not key.startswith(below)
    }


def changes_on_resume(config: DictConfig, folder: Path) -> list[str]:
    """What a training that goes on has otherwise than before, as a table for its log.

    ValueError if metrics depend on it, and `resume_changed` does not allow that.
    """
    if not config.resume or not any(folder.glob("model_*.pth")):
        return []
    try:
        found = differences(config, folder)
    except ValueError as error:
        return [f"Not compared with the attempt before: {error}"]
    keys = [key for key in found if key not in FREE]
    rows = [(key, *(str(value)[:60] for value in found[key])) for key in list(found)[:MAX_ROWS]]
    table = tabulate(rows, ["", "before", "now"], "github", disable_numparse=True)
    if keys and not config.resume_changed:
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        raise ValueError(
            f"{folder} was trained with other numbers: {', '.join(keys[:4])}{more} differ. Resume "
            "with those that it had (.hydra/overrides.yaml there), name another run_dir, or go on "
            f"with these: resume_changed=true\n{table}"
        )
    return [f"This attempt differs from the one before\n{table}"] if found else []


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their dotted names, but for None and `_partial_`; lists are leaves."""
    if not isinstance(tree, Mapping):
        key = prefix.removesuffix(".")
        if key.endswith("_target_"):
            tree = current_name(str(tree))
        return {} if tree is None else {key: tree}
    found = {}
    for key, value in tree.items():
        if key != "_partial_":
            found.update(_flat(value, f"{prefix}{key}."))
    return found


def resolved_value(config: DictConfig, key: str) -> Any:
    """A value of plain Python, or None where it is missing or cannot be resolved."""
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except Exception:
        return None


def resolve(config: DictConfig, run_dir: Path) -> str:
    """Fix the run's folder and time for all processes; return the config in YAML, or ValueError."""
    config.run_dir = str(run_dir)
    try:
        OmegaConf.resolve(config)
        return OmegaConf.to_yaml(config)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
