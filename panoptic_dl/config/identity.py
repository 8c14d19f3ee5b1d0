"""What a run is: its parts, its command, and a hash of what its figures depend on."""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

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
    *("run_dir", "resume", "sweep", "sweep_dir", "dataset.root.root", "dataset.cache.folder"),
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
    in_sweep = hydra.mode == RunMode.MULTIRUN
    return {
        "name": _value(config, "name"),
        "mode": hydra.runtime.choices.get("mode"),
        "row": "_".join(str(tree["choice"].get(group)) for group in ROW),
        "choices": choices(hydra),
        "overrides": overrides,
        "command": command(overrides),
        "sweep": Path(hydra.sweep.dir).absolute().name if in_sweep else None,
        "seed": _value(config, "seed"),
        "config_hash": config_hash(config, str(hydra.runtime.choices.get("mode"))),
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


def command(overrides: Sequence[str]) -> str:
    """The command that repeats one run by itself, without folders of this machine.

    Of a path from the root, such as `weights=/data/x.pth`, the last part is left.
    """
    words = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") in PLACES or key.startswith("sweep."):
            continue
        words.append(f"{key}={Path(value).name}" if value.startswith(("/", "~")) else override)
    return shlex.join(["python", "run.py", *words])


def config_hash(config: DictConfig, mode: str) -> str | None:
    """SHA-256 of what a run's figures depend on; None where the config cannot be resolved."""
    try:
        text = json.dumps([mode, _flat(figures_config(config))], sort_keys=True)
    except Exception:  # a run with such a config ends, and says why
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def figures_config(config: DictConfig) -> dict[str, Any]:
    """The resolved config without what figures do not depend on, nor what is there twice."""
    left: Any = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    for key in NO_PART:
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(left, parent) if parent else left
        if OmegaConf.is_dict(node) and leaf in node:
            node[leaf] = None
    evaluation = left.get("evaluation")
    if OmegaConf.is_dict(evaluation):
        for key in set(evaluation) - set(IN_EVALUATION):
            evaluation[key] = None
    left.pop("mode", None)  # copies of the rest
    tree: Any = OmegaConf.to_container(left, resolve=True)
    return tree


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys of two configs' values that differ, originals before the copies in `task`."""
    first, second = _flat(one), _flat(other)
    different = [
        key
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key) or (key in first) != (key in second)
    ]
    return sorted(different, key=lambda key: key.startswith("task."))


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
