"""Compose the config from `conf/`, `lazy_configs/` and a command line; refuse what cannot be.

Hydra merges the files of the chosen options one by one, then the command line. `_CheckedLoader`,
which takes the place of Hydra's loader everywhere, follows these steps. An option of a group
defines the keys of its group; experiments, recipes, tables and command lines may only change them:
an unknown key, or a value of another kind than the one it replaces, is a `ConfigError` in one line,
with the keys that were probably meant.
"""

import argparse
import contextlib
import difflib
import inspect
import json
import os
import re
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra._internal.hydra
import hydra._internal.utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from panoptic_dl.config.builder import TargetError, find_target
from panoptic_dl.config.lazy import ConfigFolder, ConfigPackage, LazySearchPath
from panoptic_dl.config.run_identity import resolved_value, row_folder
from panoptic_dl.config.saved import (
    WITHOUT_DATASET,
    run_of_weights,
    saved_config,
    with_parts,
)
from panoptic_dl.core.classes import require_no_class
from panoptic_dl.core.environment import version
from panoptic_dl.core.errors import message_for_user, one_line, one_line_errors
from panoptic_dl.core.files import PROGRAM, ROOT, local_path, near_names, printable
from panoptic_dl.core.run_folder import read_state
from panoptic_dl.core.settings import (
    EXPERIMENT_PARTS,
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

CONF = ROOT / "conf"
Folders = str | Path | Sequence[str | Path]
_ABSENT = object()


class ConfigError(ConfigCompositionException, ValueError):
    """A key, group, option or value that cannot be; the message says what could."""


def register() -> None:
    """Make Hydra read and check lazy configs and settings, before `hydra.main`. Idempotent."""
    setup_globals()  # Hydra's own resolvers
    Plugins.instance().register(LazySearchPath)
    for source in (ConfigFolder, ConfigPackage):
        SourcesRegistry.instance().types[source.scheme()] = source
    hydra._internal.hydra.ConfigLoaderImpl = _CheckedLoader  # type: ignore[misc]
    # Errors go to `one_line_errors`, without Hydra's advice below them.
    hydra._internal.utils.run_and_report = lambda func: func()
    hydra.main.__globals__["get_args_parser"] = _arguments
    for group in GROUPS:
        name = "local" if group == "launch" else "default"
        ConfigStore.instance().store(name, defaults(group), group, provider="settings")
    # Hydra's own "joblib", which may be installed, loses all rows when one is killed.
    launcher = "hydra_plugins.panoptic_dl.ProcessLauncher"
    for name, n_jobs in (("local", None), ("joblib", -1)):
        node = {"_target_": launcher, "n_jobs": n_jobs}
        ConfigStore.instance().store(name, node, "hydra/launcher", provider="settings")
    for function in (experiment_name, row_folder):
        OmegaConf.register_new_resolver(function.__name__, function, replace=True)
    OmegaConf.register_new_resolver("settings", _help, replace=True)
    OmegaConf.register_new_resolver("program", lambda: PROGRAM, replace=True)


def _help() -> str:
    """The settings as `python run.py --help` shows them; `$$` is a dollar sign in its template."""
    return "\n".join(
        f"  {name}={default}  ({values})\n      {meaning}"
        for group in GROUPS
        for name, default, values, meaning in settings_table(group)
    ).replace("$", "$$")


def _arguments() -> argparse.ArgumentParser:
    """Hydra's parser, which takes paths as `local_path` does, and has messages of ours."""

    def quoted(word: str) -> str:
        return re.sub(r"""(?<=[=\[,])~[^][,(){}'"]*""", r"'\g<0>'", word)

    def refuse(message: str) -> NoReturn:
        words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = difflib.get_close_matches((words or [""])[-1], parser._option_string_actions, n=3)
        meant = f"Did you mean: {', '.join(near)}?" if near else "--help lists all"
        raise SystemExit(f"error: {message}. {meant}")

    parser = hydra._internal.utils.get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    types = {"config_dir": _config_dir, "overrides": quoted}  # Hydra's grammar has no bare ~
    for action in parser._actions:
        if action.dest == "version":
            action.version = f"panoptic-dl {version('panoptic-dl')}"  # type: ignore[attr-defined]
        action.type = types.get(action.dest, action.type)
    return parser


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Let a script take --config-dir, once for each folder, as `run.py` does."""
    parser.add_argument(
        "--config-dir",
        metavar="FOLDER",
        type=_config_dir,
        action="append",
        default=[],
        help="folder of your own options, such as a backbone/",
    )


def _config_dir(text: str) -> str:
    with one_line_errors():  # argparse has a text of its own for a ValueError
        return _own_folder(text, "--config-dir")


def _own_folder(text: str | Path, key: str) -> str:
    """The absolute path of a folder of the user's own options, or the package that holds them."""
    if str(text).startswith("pkg://"):
        return str(text)
    folder = Path(os.path.abspath(local_path(str(text).removeprefix("file://"), key)))
    if not folder.is_dir():
        near = near_names(folder.parent, folder.name)
        raise ConfigError(f"{key}={text}: there is no folder {folder}{near}")
    return str(folder)


def compose(overrides: Sequence[str] = (), config_dirs: Folders = ()) -> DictConfig:
    """Return the config that `python run.py <overrides>` would run with.

    Args:
        overrides: as on the command line: `["backbone=hrnet48", "dataset.crop_size=[512,512]"]`.
        config_dirs: folders of your own options, or one, as `--config-dir` names one; packages are
            `pkg://my_package.conf`.

    Raises ConfigError: an override, or a file that it chooses, names an unknown key, group or
    option, or gives a value of the wrong kind.
    """
    config = loader(config_dirs).load_configuration(
        "config", list(overrides), RunMode.RUN, from_shell=False
    )
    with open_dict(config):
        del config["hydra"]
    return config


def options(group: str, config_dirs: Folders = ()) -> list[str]:
    """The options of a group, such as those of `backbone`; for `config_dirs` see `compose`."""
    return loader(config_dirs).get_group_options(group)


def open_run(folder: str | Path, config_dirs: Folders = ()) -> DictConfig:
    """The config of a run, and leave to build from it what the user's own lazy files allow.

    The lazy files that the run names by its choices, such as `backbone=mine`, are looked up where
    `compose` would find them, and executed as it would; nothing in the folder itself is, and no
    path in it is followed. So a run folder of a stranger allows nothing.

    Raises ValueError: see `saved_config`; or a part of the run is in none of these folders.
    """
    config = saved_config(folder)
    loader(config_dirs).load_parts(config, folder)
    return config


def is_choice(override: str) -> bool:
    """Whether an override chooses an option of a group."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0] in _groups()


class _CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, which checks keys and kinds of values as it merges files.

    `_tree` is what has been merged so far, without Hydra's own node, as plain containers with
    interpolations as text. `_added` has the keys that nothing has defined, and which file, if it
    was one, added them. `_options` has the options of each group whose files have been merged.
    `_repo` finds options, in the folders of the user's own, too.
    """

    def __init__(self, config_search_path: Any) -> None:
        super().__init__(config_search_path)
        self._searched: dict[tuple[str | None, ...], Any] = {}  # by config and overrides

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Hydra's, which copies all that it has read for each of the groups that `--help` lists."""
        words = (config_name, *(overrides or ()))
        if words not in self._searched:
            _, repo = self._parse_overrides_and_create_caching_repo(config_name, overrides or [])
            self._searched[words] = repo
        return list(self._searched[words].get_group_options(group_name, results_filter))

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
        self._options: dict[str, list[str]] = {}
        self._repo: Any = self.repository
        for text in overrides:
            if text.startswith("~") and text[1:] in EXPERIMENT_PARTS:
                raise ConfigError(f"{text}: a run needs one; {text[1:]}=NAME chooses another")
        try:
            saved, words = self._of_weights(config_name, overrides)
            config = super().load_configuration(
                config_name, [*words, *overrides], run_mode, from_shell, validate_sweep_overrides
            )
            tree: Any = OmegaConf.to_container(config)
            self._change({key: tree[key] for key in tree if key != "hydra"}, "")
            for key, source in self._added:
                if not _is_read(key, tree):
                    raise ConfigError(_unknown(key, self._tree, source))
            # An option of the user's own may be written as a change of another one.
            choices = config.hydra.runtime.choices
            with open_dict(config):
                of_recipe = OmegaConf.select(config, "recipe_record.choices", default=())
                for group in (*config.get("choice", ()), *of_recipe):
                    if group not in choices:  # Hydra leaves lists out
                        choices[group] = f"[{','.join(self._options.get(group, ()))}]"
                    config.choice[group] = choices[group]
            if saved is not None:
                _forget(words, config)
                with_parts(config, saved, overrides)
            _check_ranges(config)
        except HydraException as error:
            firsts = _first_options(overrides) if run_mode == RunMode.MULTIRUN else {}
            if firsts and "Could not override" in str(error):
                # A sweep over experiments is composed without any: it would lack their keys.
                words = [firsts.get(text, text) for text in overrides]
                config = self.load_configuration(
                    config_name, words, run_mode, from_shell, validate_sweep_overrides
                )
                given = dict(zip(words, overrides, strict=True))
                task: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
                config.hydra.overrides.task = [given[text] for text in task]
                return config
            raise ConfigError(_explain(error, overrides, self._tree, self._repo)) from error
        except ValueError as error:
            if message_for_user(error) is None:
                raise
            text = str(error)
            if "Config group override" in text:
                odd = [
                    text for text in overrides if re.search(r"=(null|true|false|[-+.\d].*)?$", text)
                ]
                groups = [text for text in odd if is_choice(text) or "/" in text.partition("=")[0]]
                text = f"{', '.join(groups or odd)}: a group needs the name of an option"
            raise ConfigError(text) from error
        return config

    def _of_weights(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[DictConfig | None, list[str]]:
        """The config of the run that `weights=` names, and the words that choose its parts.

        None where the command line chooses parts by itself; `WITHOUT_DATASET` compares them later.
        """
        folder = run_of_weights(overrides)
        if folder is None:
            return None, []
        chosen = {text.partition("=")[0] for text in overrides if is_choice(text)}
        alone = any(f"mode={mode}" in overrides for mode in (*WITHOUT_DATASET, "benchmark"))
        if not alone and chosen & {*EXPERIMENT_PARTS, "experiment"}:
            return None, []
        saved = saved_config(folder, with_classes=alone)
        _, repo = self._parse_overrides_and_create_caching_repo(config_name, overrides)
        self.load_parts(saved, folder, repo)
        if "experiment" in chosen:
            return saved, []
        known = (read_state(folder).get("choices") or {}) | dict(saved.choice)
        words = [
            f"{group}={known[group]}"
            for group in (*EXPERIMENT_PARTS, "recipe")
            if group in known and group not in chosen and _find(repo, group, known[group])
        ]
        return saved, words

    def load_parts(self, config: DictConfig, folder: str | Path, repo: Any = None) -> None:
        """Execute the lazy files of a saved config's choices; ValueError if one is needed."""
        repo = repo or self.repository
        tree: Any = OmegaConf.to_container(config)
        for group in EXPERIMENT_PARTS:
            option = config.choice.get(group)
            if _execute(repo, group, option):
                continue
            try:
                for target in _targets(tree.get(group)):
                    find_target(target)
            except TargetError as error:
                raise ValueError(
                    f"{folder} has {group}={printable(option)}, which is no option in "
                    f"{_folders(repo)}: name the folder that has it, --config-dir FOLDER (in "
                    "Python: config_dirs=[...]), if you trust what is in there"
                ) from error

    def _process_config_searchpath(
        self, config_name: str | None, parsed_overrides: list[Override], repo: Any
    ) -> None:
        for each in parsed_overrides:
            if each.key_or_group == "hydra.searchpath" and isinstance(each._value, list):
                places = cast(list[Any], each.value())
                each._value = [_own_folder(str(text), each.key_or_group) for text in places]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for folders that are missing, refused here
            super()._process_config_searchpath(config_name, parsed_overrides, repo)
        for source in repo.get_sources():
            key = source.provider.partition(" ")[0]
            if not source.available() and key in ("hydra.searchpath", "config_dirs"):
                raise ConfigError(f"{key}: there is no {source.full_path()}")
        self._repo = repo

    def _load_single_config(self, default: Any, repo: Any) -> Any:
        places = {
            os.path.realpath(source.path): None
            for source in repo.get_sources()
            if source.scheme() == "file" and source.is_config(default.config_path)
        }
        if len(places) > 1 and "/" in default.config_path:  # the primary config is the first
            raise ConfigError(
                f"{default.config_path} is in {' and in '.join(places)}: rename your own"
            )
        loaded = super()._load_single_config(default, repo)
        group, _, option = str(default.config_path).rpartition("/")
        self._options.setdefault(group, []).append(option)
        if group.partition("/")[0] == "hydra":
            return loaded
        if group == "backbone" and not default.package:  # so that pretrained=null always works
            config: Any = loaded.config
            with open_dict(config):
                config.setdefault("pretrained", self._tree.get("pretrained"))
        if group == "recipe":  # what it chooses is part of it
            for each in loaded.defaults_list or ():
                if isinstance(each, GroupDefault):
                    key = f"recipe_record.choices.{str(each.group).strip('/')}"
                    OmegaConf.update(loaded.config, key, each.value, force_add=True)
        tree: Any = OmegaConf.to_container(loaded.config)
        tree.pop("hydra", None)
        is_lazy = str(loaded.path).endswith(".py")
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
                if isinstance(value, str) and re.fullmatch(r"[-+.\deE]+|true|false|\[.*]", value):
                    like += f"; {value!r} is a text"
                    if "oc.env" in str(_select(self._tree, key)):
                        like += (
                            f", as all environment variables are: {key}=$NAME lets the shell fill "
                            f"it in; '{key}=\"${{oc.decode:${{oc.env:NAME}}}}\"' decodes it"
                        )
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
    # The number of classes of custom data is known when their files are read.
    dataset = config.get("dataset", {})
    if isinstance(ignored := dataset.get("ignore_label"), int):
        number = dataset.get("num_classes")
        require_no_class(ignored, number if isinstance(number, int) else 1)


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
        if not any(kinds) and re.search("sizes?$", key) and any(item < 1 for item in value):
            return "a list of numbers from 1 on"
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
        parameters = _parameters(node)
        # Without any there is an error when it is built, or no signature.
        return leaf in parameters or None in parameters or not parameters
    if isinstance(node[leaf], dict) and "_target_" in node[leaf]:
        return True
    reading = re.compile(rf"\$\{{(.*[^\w.])?({re.escape(key)}|\.+{re.escape(leaf)})\b")
    return reading.search(json.dumps(tree, indent=0, default=str)) is not None  # a value a line


def _parameters(node: Any) -> list[str | None]:
    """What the class or function of a node takes; None: anything."""
    try:
        parameters = inspect.signature(find_target(node["_target_"])).parameters.values()
    except (TypeError, KeyError, TargetError, ValueError):
        return []
    return [None if p.kind == p.VAR_KEYWORD else p.name for p in parameters]


def _explain(error: Exception, overrides: Sequence[str], tree: Mapping[str, Any], repo: Any) -> str:
    """Hydra's message for a failed composition in one line, with what was probably meant."""
    text = str(error) or str(error.__cause__)
    unknown = re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text)
    if unknown is not None:
        return _unknown(unknown[1], tree)
    if twice := re.match(r"Multiple values for ([\w/]+)\.", text):
        return f"{twice[1]} is chosen already, and has one option: leave out the + before it"
    several = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if several is not None:
        key, values = several.groups()
        return (
            f"{key}={values} are several values, for a sweep: {PROGRAM} -m ...; a list is "
            f"{key}=[{values}], and one text is {key}=\\'{values}\\'"
        )
    if re.search(r"Could not (?:find|load) 'hydra/launcher/submitit_(?:local|slurm)'", text):
        return "this hydra/launcher needs an extra: pip install 'panoptic-dl[launchers]'"
    if isinstance(error, MissingConfigException):
        group, _, option = str(error.missing_cfg_file or "config").rpartition("/")
        parent = re.match(r"In '([^']+)'", text)
        where = f" (in {parent[1]})" if parent and parent[1] != "config" else ""
        there = error.options or repo.get_group_options(group)  # Hydra says none of a list's
        dataset, _, task = option.rpartition("_")
        tasks = [o.rpartition("_")[2] for o in there if o.rpartition("_")[0] == dataset]
        if group == "recipe" and tasks:
            return f"dataset={dataset} is not for task={task}: choose task={' or '.join(tasks)}"
        near = difflib.get_close_matches(option, there, n=3, cutoff=0.5)
        meant = f" Did you mean: {', '.join(near)}?" if near else ""
        options = f" Options: {', '.join(there)}." if there else ""
        name = f"{group}={option}" if group else option
        return f"There is no {name}{where}.{meant}{options} Looked in {_folders(repo)}"
    for override in overrides:
        if ("=" not in override[1:] and not override.startswith("~")) or override[:1] in "-=":
            return f"{override} is no key=value"
        plain = _as_text(override)
        if plain is not None:
            for_shell = shlex.quote(plain) if re.search(r'["$`\\!]', plain) else f'"{plain}"'
            return (
                f"{override} has signs that mean something to Hydra; as plain text it is: "
                f"{for_shell}"
            )
        with contextlib.suppress(HydraException):
            OverridesParser.create().parse_override(override)
            continue
        return (
            f"{override} cannot be read: are all brackets and quotes closed, and is the whole "
            "word in quotes for the shell?"
        )
    return one_line(text)


def _find(repo: Any, group: str, option: Any) -> Any:
    """Where an option is found; None for what is no name of one, such as `../x`."""
    if group not in repo.get_group_options("", ObjectType.GROUP):
        return None
    if option not in repo.get_group_options(group):
        return None
    return next(source for source in repo.get_sources() if source.is_config(f"{group}/{option}"))


def _execute(repo: Any, group: str, option: Any) -> bool:
    """Execute the lazy file of an option, or of those that it changes; whether there is one."""
    source = _find(repo, group, option)
    if source is None:
        return False
    changed: Any = source.load_config(f"{group}/{option}").config.get("defaults")
    for name in changed or ():
        _execute(repo, group, name)
    return True


def _folders(repo: Any) -> str:
    """The folders that are searched for options, without Hydra's own."""
    sources = [
        source for source in repo.get_sources() if source.provider not in ("hydra", "schema")
    ]
    return ", ".join(source.full_path().removeprefix("file://") for source in sources)


def _first_options(overrides: Sequence[str]) -> dict[str, str]:
    """For words that sweep over the options of a group, those that choose the first one."""
    firsts = {}
    for text in filter(is_choice, overrides):
        with contextlib.suppress(HydraException):
            parsed = OverridesParser.create().parse_override(text)
            if parsed.is_sweep_override():
                firsts[text] = f"{parsed.get_key_element()}={next(parsed.sweep_string_iterator())}"
    return firsts


def _forget(words: Sequence[str], config: DictConfig) -> None:
    """Take words that were added to a command line out of what Hydra keeps of it."""
    job, given = config.hydra.job, config.hydra.overrides
    task: Any = OmegaConf.to_container(given.task, resolve=False)
    given.task = [text for text in task if text not in words]
    job.override_dirname = get_overrides_dirname(
        OverridesParser.create().parse_overrides([x for x in task if x not in words]),
        **job.config.override_dirname,
    )


def _targets(tree: Any) -> Iterator[Any]:
    """All values of `_target_` in a plain tree."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree["_target_"]
        for value in tree.values():
            yield from _targets(value)


def _unknown(key: str, tree: Mapping[str, Any], source: str = "") -> str:
    """The message for a key that is none, with at most three that resemble it, best first."""
    group = key.partition(".")[0]
    if group == "hydra":
        return f"Unknown key '{key}'{source}. `--cfg hydra` prints all keys."
    if group in GROUPS and group not in tree:
        return f"Unknown key '{key}'{source}. The group {group} comes with mode={group}."
    known = sorted({*_keys(tree), *_groups()} - {key})
    folder, _, leaf = key.rpartition(".")
    taken = filter(None, _parameters(_select(tree, folder)))  # some have no value yet
    leaves = {name: f"{'' if source else '+'}{folder}.{name}" for name in taken}
    leaves |= {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == folder}
    near = [leaves[name] for name in difflib.get_close_matches(leaf, leaves, n=3, cutoff=0.5)]
    near += [k for k in known if k.rpartition(".")[2] == leaf]
    near += difflib.get_close_matches(key, known, n=5, cutoff=0.6)
    best = ", ".join(list(dict.fromkeys(near))[:3])
    meant = f"Did you mean: {best}?" if best else "`--cfg job` prints all keys."
    return f"Unknown key '{key}'{source}. {meant}"


def _as_text(override: str) -> str | None:
    """An override that Hydra cannot parse, with quotes that let it; None where that is not it."""
    key, _, value = override.partition("=")
    if value[:1] in ("[", "{", "'", '"') or value.count("(") != value.count(")"):  # not closed
        return None
    quoted = f"{key}='" + re.sub(r"(\\*)(')", r"\1\1\\\2", value) + "'"
    for text in (override, quoted):
        with contextlib.suppress(HydraException):
            (parsed,) = OverridesParser.create().parse_overrides([text])
            return quoted if text == quoted and parsed.value() == value else None
    return None


def loader(config_dirs: Folders = ()) -> _CheckedLoader:
    """What composes configs from the checkout's folders, and then from `config_dirs`."""
    register()
    path = create_config_search_path(str(CONF))
    for folder in [config_dirs] if isinstance(config_dirs, str | Path) else config_dirs:
        place = _own_folder(folder, "config_dirs")
        path.prepend("config_dirs", place, anchor=SearchPathQuery(provider="schema"))
    return _CheckedLoader(path)


@lru_cache(maxsize=1)
def _groups() -> tuple[str, ...]:
    return tuple(name for name in loader().list_groups("") if name != "hydra")


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
