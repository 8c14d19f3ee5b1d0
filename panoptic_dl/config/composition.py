"""Compose the config from `conf/`, `lazy_configs/` and a command line; refuse what cannot be.

Hydra merges the files of the chosen options one by one, then the command line. `_CheckedLoader`,
which takes the place of Hydra's loader everywhere, follows these steps. An option of a group
defines the keys of its group; experiments, recipes, tables and command lines may only change them:
an unknown key, or a value of another kind than the one it replaces, is a `ConfigError` in one line,
with the keys that were probably meant.
"""

import contextlib
import difflib
import inspect
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from panoptic_dl.config.builder import TargetError, find_target
from panoptic_dl.config.lazy import LazyConfigSource, LazySearchPath
from panoptic_dl.config.run_identity import resolved_value, row_folder
from panoptic_dl.core.settings import (
    GROUPS,
    OTHERS,
    as_yaml,
    check_value,
    defaults,
    describe_type,
    experiment_name,
    has_type,
    settings_table,
    type_of,
)

CONF = Path(__file__).parents[2] / "conf"
_ABSENT = object()


class ConfigError(ConfigCompositionException, ValueError):
    """A key, group, option or value that cannot be; the message says what could."""


def register() -> None:
    """Make Hydra read lazy configs and settings, and check them. Idempotent.

    Call it before `hydra.main`.
    """
    setup_globals()  # Hydra's own resolvers
    Plugins.instance().register(LazyConfigSource)
    Plugins.instance().register(LazySearchPath)
    hydra._internal.hydra.ConfigLoaderImpl = _CheckedLoader  # type: ignore[misc]
    for group in GROUPS:
        name = "local" if group == "launch" else "default"
        ConfigStore.instance().store(name, defaults(group), group, provider="settings")
    for function in (experiment_name, row_folder):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)
    OmegaConf.register_new_resolver("settings", _help, replace=True)


def _help() -> str:
    """The settings as `python run.py --help` shows them; `$$` is a dollar sign in its template."""
    return "\n".join(
        f"  {name}={default}  ({values})\n      {meaning}"
        for group in GROUPS
        for name, default, values, meaning in settings_table(group)
    ).replace("$", "$$")


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Return the config that `python run.py <overrides>` would run with.

    Args:
        overrides: as on the command line, such as `["backbone=hrnet48",
            "dataset.crop_size=[512,512]"]`.

    Raises:
        ConfigError: an override, or a file that it chooses, names an unknown key, group or option,
            or gives a value of the wrong kind.
    """
    config = _loader().load_configuration("config", list(overrides), RunMode.RUN, from_shell=False)
    with open_dict(config):
        del config["hydra"]
    return config


def options(group: str) -> list[str]:
    """The options of a group, such as those of `backbone`."""
    return _loader().get_group_options(group)


def is_choice(override: str) -> bool:
    """Whether an override chooses an option of a group."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0] in _groups()


class _CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, which checks keys and kinds of values as it merges files.

    `_tree` is what has been merged so far, without Hydra's own node, as plain containers with
    interpolations as text. `_added` has the keys that nothing has defined, and which file, if it
    was one, added them.
    """

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        register()  # jobs of submitit and joblib are not begun by run.py
        self._tree: dict[str, Any] = {}
        self._added: list[tuple[str, str]] = []
        start = "error: " if from_shell else ""  # Hydra prints the message and ends
        try:
            config = super().load_configuration(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )
            tree: Any = OmegaConf.to_container(config)
            self._change({key: tree[key] for key in tree if key != "hydra"}, "")
            for key, source in self._added:
                if not _is_read(key, tree):
                    raise ConfigError(_unknown(key, self._tree, source))
            _check_ranges(config)
        except HydraException as error:
            raise ConfigError(start + _explain(error, overrides, self._tree)) from error
        except ValueError as error:
            text, empty = str(error), [text for text in overrides if text.endswith("=null")]
            if empty and is_choice(empty[0]):
                text = f"{empty[0]}: a group needs an option ({error})"
            raise ConfigError(start + text) from error
        return config

    def _load_single_config(self, default: Any, repo: Any) -> Any:
        loaded = super()._load_single_config(default, repo)
        group, _, option = str(default.config_path).rpartition("/")
        if group.partition("/")[0] == "hydra":
            return loaded
        tree: Any = OmegaConf.to_container(loaded.config)
        tree.pop("hydra", None)
        is_lazy = str(loaded.path).startswith(f"{LazyConfigSource.scheme()}:")
        if (
            default.primary
            or is_lazy
            or (default.package and not _select(self._tree, default.package))
        ):
            _merge(self._tree, tree)
        else:
            self._change(tree, f" ({group}={option})")
        return loaded

    def _change(self, tree: dict[str, Any], source: str) -> None:
        """Merge what may only change keys; ConfigError for a value of another kind than before."""
        before = [(key, self._value(key)) for key in self._changed(tree, self._tree, "", source)]
        _merge(self._tree, tree)
        for key, default in before:
            value = self._value(key)
            wanted = _mismatch(value, default, key)
            if wanted:
                like = "" if default is None else f", such as the default {as_yaml(default)}"
                raise ConfigError(f"{key}={as_yaml(value)}{source}: expected {wanted}{like}")

    def _changed(self, new: Mapping[str, Any], old: Any, prefix: str, source: str) -> list[str]:
        """Keys of values in `old` that `new` replaces; notes keys that it adds."""
        keys: list[str] = []
        for name, value in new.items():
            key = f"{prefix}{name}"
            if name not in old:
                self._added.append((key, source))
            elif isinstance(value, dict) and isinstance(old[name], dict):
                if old[name]:  # else anything may be filled in
                    keys += self._changed(value, old[name], f"{key}.", source)
            elif value != old[name] or type(value) is not type(old[name]):  # 1 is not true
                keys.append(key)
        return keys

    def _value(self, key: str) -> Any:
        """The value of a key; None where it needs what is merged later, or what only Hydra has."""
        value = _select(self._tree, key)
        if "${" in str(value):
            return resolved_value(OmegaConf.create(self._tree), key)
        return None if value == "???" else value


def _check_ranges(config: DictConfig) -> None:
    """Raise ValueError for values out of range, as far as they are known before a run."""
    for name in (*GROUPS, *OTHERS):
        try:
            value: Any = OmegaConf.select(config, name, default=_ABSENT)
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException:  # it needs what only the run knows
            continue
        if value is _ABSENT:
            continue
        if name in GROUPS:
            GROUPS[name](**value)
        else:
            check_value(name, value, *OTHERS[name])


def _mismatch(value: Any, default: Any, key: str) -> str | None:
    """What was expected instead of `value`, or None if it will do."""
    hint = type_of(key)
    if hint is not None:
        return None if value is None or has_type(value, hint) else describe_type(hint)
    if value is None or default is None or (isinstance(value, dict) and "_target_" in value):
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
    if type(default) in (bool, int, float) and not has_type(value, type(default)):
        return describe_type(type(default))
    return None


def _is_read(key: str, tree: Mapping[str, Any]) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = _select(tree, parent) if parent else tree
    if not isinstance(node, dict) or leaf not in node or leaf.startswith("_"):
        return True
    if "_target_" in node:
        try:
            parameters = inspect.signature(find_target(node["_target_"])).parameters
        except (TargetError, ValueError):  # an error when it is built; no signature
            return True
        return leaf in parameters or any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    if isinstance(node[leaf], dict) and "_target_" in node[leaf]:
        return True
    reading = re.compile(rf"\$\{{(.*[^\w.])?({re.escape(key)}|\.+{re.escape(leaf)})\b")
    return reading.search(json.dumps(tree, indent=0)) is not None  # a value a line


def _explain(error: Exception, overrides: Sequence[str], tree: Mapping[str, Any]) -> str:
    """Hydra's message for a failed composition, with what was probably meant."""
    text = str(error) or str(error.__cause__)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown is not None:
        return _unknown(unknown[1], tree)
    if re.search(r"Could not (?:find|load) 'hydra/launcher/(submitit_\w+|joblib)'", text):
        return "this hydra/launcher needs an extra: pip install 'panoptic-dl[launchers]'"
    for override in overrides:
        plain = _as_text(override)
        if plain is not None:
            for_shell = shlex.quote(plain) if re.search(r'["$`\\!]', plain) else f'"{plain}"'
            return (
                f"{override} has signs that mean something to Hydra; as plain text it is: "
                f"{for_shell}"
            )
    return text


def _unknown(key: str, tree: Mapping[str, Any], source: str = "") -> str:
    """The message for a key that is none, with at most three that resemble it, best first."""
    known = sorted({*_keys(tree), *_groups()} - {key})
    folder, _, leaf = key.rpartition(".")
    leaves = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == folder}
    near = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.5)]
    near += [k for k in known if k.rpartition(".")[2] == leaf]
    near += difflib.get_close_matches(key, known, n=5, cutoff=0.6)
    best = ", ".join(list(dict.fromkeys(near))[:3])
    meant = f"Did you mean: {best}?" if best else "`--cfg job` prints all keys."
    return f"Unknown key '{key}'{source}. {meant}"


def _as_text(override: str) -> str | None:
    """An override that Hydra cannot parse, with quotes that let it; None where that is not it."""
    key, _, value = override.partition("=")
    if value[:1] in ("[", "{", "'", '"'):  # more likely a list or quote that was not closed
        return None
    quoted = f"{key}='" + re.sub(r"(\\*)(')", r"\1\1\\\2", value) + "'"
    for text in (override, quoted):
        with contextlib.suppress(HydraException):
            (parsed,) = OverridesParser.create().parse_overrides([text])
            return quoted if text == quoted and parsed.value() == value else None
    return None


def _loader() -> _CheckedLoader:
    register()
    return _CheckedLoader(create_config_search_path(str(CONF)))


@lru_cache(maxsize=1)
def _groups() -> tuple[str, ...]:
    return tuple(name for name in _loader().list_groups("") if name != "hydra")


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys below `tree`, inner nodes included, but not `_target_` and the like."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if not str(name).startswith("_"):
                yield f"{prefix}{name}"
                yield from _keys(value, f"{prefix}{name}.")


def _select(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _merge(tree: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Merge as OmegaConf does: dicts key by key, all else is replaced."""
    for name, value in new.items():
        if isinstance(value, dict) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = value
