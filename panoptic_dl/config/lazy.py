"""Read one LazyConfig file into a tree that YAML can hold."""

import builtins
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.config.instantiate import dump_dataclass
from detectron2.utils.registry import _convert_target_to_string, locate
from omegaconf import OmegaConf, SCMode


class LazyConfigError(ValueError):
    """A lazy file does not define what it must, or holds something that a YAML file could not."""


def load(file: Path, name: str, companions: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the variable `name` of a lazy file, and those of `companions` that it defines.

    The trees are plain dicts, lists and scalars; every callable is replaced by its dotted name, and
    interpolations stay text.

    Raises:
        LazyConfigError: `name` is not defined, or a value is one that YAML cannot hold; the message
            names the file and the key.
    """
    original_import = builtins.__import__  # LazyConfig.load does not restore it when a file fails
    try:
        namespace = LazyConfig.load(str(file))
    finally:
        builtins.__import__ = original_import
    if name not in namespace:
        raise LazyConfigError(f"{file} must define `{name}`; it defines {sorted(namespace)}")
    trees = {}
    for variable in (name, *companions):
        if variable not in namespace:
            continue
        tree = OmegaConf.to_container(
            namespace[variable], resolve=False, structured_config_mode=SCMode.INSTANTIATE
        )
        trees[variable] = _plain(tree, f"{file}: {variable}")
    return trees


def _plain(value: Any, where: str) -> Any:
    """Copy `value` keeping only what YAML can hold; `where` names it in errors."""
    if is_dataclass(value) and not isinstance(value, type):  # such as ShapeSpec(channels=256)
        value = dump_dataclass(value)
    elif isinstance(value, partial) and not value.args:
        value = {"_target_": value.func, "_partial_": True, **value.keywords}
    elif callable(value):  # act=nn.GELU: a callable is a partial of itself
        value = {"_target_": value, "_partial_": True}
    if isinstance(value, dict):
        head = {"_target_": _dotted(value["_target_"], where)} if "_target_" in value else {}
        return head | {k: _plain(v, f"{where}.{k}") for k, v in value.items() if k != "_target_"}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise LazyConfigError(f"{where} is {value!r}; a config holds only values and L(...) calls")


def _dotted(target: Any, where: str) -> str:
    """Name a callable so that `locate` finds it again, from any process."""
    if isinstance(target, str):
        return target
    try:
        name = _convert_target_to_string(target)
        if locate(name) == target:
            return name
    except (AttributeError, ImportError):
        pass
    raise LazyConfigError(
        f"{where}: {target!r} cannot be imported by name; move it into a module that can"
    )
