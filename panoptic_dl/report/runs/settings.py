"""A resolved config as flat text, and what of it makes two runs the same experiment."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as SafeLoader  # ten times as fast
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

from .fields import LARGEST, printable, regular_size

MOST = 20_000  # leaves; ours have some hundreds

# Where and how a run works, what it is called, and what it prints, draws and saves: none of it
# changes figures. Top keys, then last parts of keys, for `task` and `mode` hold copies of others.
OUTSIDE = (
    *("hydra", "mode", "launch", "logger", "sweep", "checkpoint", "choice", "input"),
    *("published", "benchmark", "browse", "demo", "doctor"),
)
NAMES = (
    *("seed", "run_dir", "resume", "name", "sweep_dir", "published_note", "published_row"),
    *("num_workers", "log_period", "activation_checkpointing", "max_nonfinite_skips"),
    *("per_class", "official", "num_threads", "save", "picture_count", "best_and_worst", "charts"),
)
PLACES = (".root.root", ".cache.folder", ".cache.max_gb")


def read_settings(file: Path) -> dict[str, str]:
    """Dotted key of every leaf, and its value as JSON text.

    Raises:
        ValueError: it is no YAML, or not a config.
    """
    too_much = f"{file.name} has more than {MOST:,} values: it is no config of ours"
    if regular_size(file) > LARGEST:
        raise ValueError(too_much)
    try:
        with file.open(encoding="utf-8") as opened:
            tree = SafeLoader(opened).get_single_data()
        if not isinstance(tree, dict):
            raise ValueError(f"{file.name} holds no config")
        found = list(islice(_leaves(tree, ""), MOST + 1))  # aliases can make a few lines endless
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{file.name} is no whole YAML file ({first})") from error
    if len(found) > MOST:
        raise ValueError(too_much)
    return dict(found)


def family(settings: Mapping[str, str]) -> str:
    """The same text for runs that differ in nothing but their seed and what changes no figures."""
    kept = {
        key: value
        for key, value in settings.items()
        if key.partition(".")[0] not in OUTSIDE
        and key.rpartition(".")[2] not in NAMES
        and not key.endswith(PLACES)
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list) and any(isinstance(item, (dict, list)) for item in node):
        for index, item in enumerate(node):
            yield from _leaves(item, f"{key}.{index}")
    else:
        yield printable(key), printable(node if isinstance(node, str) else _json(node))


def _json(node: Any) -> str:
    return json.dumps(node, default=str, ensure_ascii=False)
