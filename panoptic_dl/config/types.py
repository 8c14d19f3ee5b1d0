"""Refuse values of the wrong kind by the name of their key, before anything is built."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from .composition import ConfigError, compose_unchecked, is_choice

# Keys that take more than the kind of their default.
EITHER: dict[str, tuple[type, ...]] = {"resume": (bool, str)}


def check_types(config: DictConfig, overrides: Sequence[str]) -> None:
    """Hold each overridden value of `config` against the one it replaces.

    Raises:
        ConfigError: a word where a number belongs, one number where a list belongs, and the like.
    """
    values = [text for text in overrides if not is_choice(text) and text[:1] not in ("+", "~")]
    if not values:
        return
    defaults = _defaults(tuple(text for text in overrides if is_choice(text)))
    for override in OverridesParser.create().parse_overrides(values):
        key = override.key_or_group
        value, default = _plain(config, key), _plain(defaults, key)
        if isinstance(value, EITHER.get(key, ())):
            continue
        wanted = _mismatch(value, default, key)
        if wanted:
            raise ConfigError(f"{key}={value}: expected {wanted}, such as the default {default}")


@lru_cache(maxsize=32)
def _defaults(choices: tuple[str, ...]) -> DictConfig:
    return compose_unchecked(choices)


def _plain(config: DictConfig, key: str) -> Any:
    """The value of a key; None where it is missing or cannot be resolved here."""
    try:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except Exception:  # what an interpolation needs may come later, such as hydra's own values
        return None


def _mismatch(value: Any, default: Any, key: str) -> str | None:
    """What was expected instead of `value`, or None if it will do."""
    if value is None or default is None:
        return None
    if isinstance(default, list):
        if not isinstance(value, list):
            return "a list"
        if key.endswith("size") and len(default) == 2 and len(value) != 2:
            return "[height, width]"
        kinds = [_mismatch(item, default[0], "") for item in value] if default else []
        return next((f"a list with {kind} in it" for kind in kinds if kind), None)
    if isinstance(default, dict):
        return None if isinstance(value, dict) else "a group of keys"
    if isinstance(value, (list, dict)):
        return "a single value"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, int):
        return None if number and isinstance(value, int) else "a whole number"
    if isinstance(default, float):
        return None if number else "a number"
    return None
