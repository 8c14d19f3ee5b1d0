"""A resolved config as flat text."""

import json
from collections.abc import Iterator
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
