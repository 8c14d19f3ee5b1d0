"""Compose the config tree from Python, with errors that name what was probably meant.

Refuse values of the wrong kind by the name of their key, before anything is built.
"""

import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from panoptic_dl.config.lazy import register

CONF = Path(__file__).parents[2] / "conf"


class ConfigError(ConfigCompositionException, ValueError):
    """An override that names no key, group or option; the message lists what it could be."""


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that `python run.py <overrides>` would run with.

    Args:
        overrides: what would stand on the command line, such as `["backbone=hrnet48",
            "dataset.crop_size=[512,512]"]`.

    Raises:
        ConfigError: an override names an unknown key, group or option, or its value is of the
            wrong kind.
    """

    try:
        config = compose_unchecked(overrides)
    except HydraException as error:  # unknown names, and overrides that cannot be parsed
        raise ConfigError(explain(error, overrides)) from error
    check_types(config, overrides)
    return config


def compose_unchecked(overrides: Sequence[str]) -> DictConfig:
    register()  # a job of submitit or joblib is not begun by run.py
    with _hydra_of_our_own():
        return hydra.compose("config", overrides=list(overrides))


@contextmanager
def _hydra_of_our_own() -> Iterator[None]:
    """Hydra set up for `conf/`, also while a run of `hydra.main` is under way, whose is kept."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            yield
    finally:
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's message for a failed composition, with near names where a key is unknown."""
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is None:
        return text
    near = near_names(unknown[1], overrides)
    meant = f"Did you mean: {', '.join(near)}?" if near else "`--cfg job` prints all keys."
    return f"Unknown key '{unknown[1]}'. {meant}"


def suggest(arguments: Sequence[str]) -> None:
    """After Hydra refused a command line, print to stderr which keys were probably meant."""
    given = [a for a in arguments if "=" in a and not a.startswith("-")]
    for override, text in ((one, as_text(one)) for one in given):
        if text is not None:
            for_shell = shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
            print(
                f"error: {override} has signs that mean something to Hydra; as plain text it is: "
                f"{for_shell}",
                file=sys.stderr,
            )
            return
    overrides = [_single(one) for one in given]
    try:
        compose(overrides)
    except ConfigError as error:
        if str(error).startswith("Unknown key"):
            print(error, file=sys.stderr)
    except ValueError as error:  # `recipe=null`: Hydra shows its own traceback
        empty = [o for o in overrides if o.endswith("=null") and o[: -len("=null")] in _groups()]
        if empty:
            print(f"error: {empty[0]}: a group needs an option ({error})", file=sys.stderr)
    except Exception:  # the command line failed for a reason that Hydra has printed already
        return


def as_text(override: str) -> str | None:
    """An override that Hydra cannot parse, with quotes that let it; None where that is not it."""
    key, _, value = override.partition("=")
    if value[:1] in ("[", "{", "'", '"'):  # more likely a list or quote that was not closed
        return None
    quoted = f"{key}='" + re.sub(r"(\\*)(')", r"\1\1\\\2", value) + "'"
    parser = OverridesParser.create()
    try:
        parser.parse_overrides([override])
    except HydraException:
        try:
            (parsed,) = parser.parse_overrides([quoted])
        except HydraException:
            return None
        return quoted if parsed.value() == value else None
    return None


def _single(override: str) -> str:
    """The first override of a sweep, `optimizer.lr=1e-3` of `optimizer.lr=1e-3,1e-4`."""
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
        if parsed.is_discrete_sweep():
            return f"{override.partition('=')[0]}={next(parsed.sweep_string_iterator())}"
    except HydraException:  # Hydra has said what is wrong with it
        pass
    return override


def is_choice(override: str) -> bool:
    """Whether an override chooses an option of a group."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0] in _groups()


def near_names(key: str, overrides: Sequence[str]) -> list[str]:
    """Keys and groups of the config that resemble `key`, best first, at most three."""
    choices = [override for override in overrides if is_choice(override)]
    known = {k for k in _keys(compose_unchecked(choices)) if "._" not in k} | set(_groups())
    folder, _, leaf = key.rpartition(".")
    same_leaf = [k for k in sorted(known) if k.rpartition(".")[2] == leaf]
    siblings = [k for k in sorted(known) if k.rpartition(".")[0] == folder]
    leaves = {k.rpartition(".")[2]: k for k in siblings}
    close = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.5)]
    ranked = close + same_leaf + difflib.get_close_matches(key, sorted(known), n=5, cutoff=0.6)
    return list(dict.fromkeys(ranked))[:3]


@lru_cache(maxsize=1)
def _groups() -> tuple[str, ...]:
    with _hydra_of_our_own():
        loader = GlobalHydra.instance().config_loader()
        return tuple(name for name in loader.list_groups("") if name != "hydra")


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys below `node`, inner nodes included, without resolving anything."""
    tree = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if not isinstance(tree, dict):
        return
    for name, value in tree.items():
        yield prefix + str(name)
        yield from _keys(value, f"{prefix}{name!s}.")


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
