"""Put `lazy_configs/` on Hydra's search path: <group>/<name>.py is option <name> of <group>.

A lazy file is executed when its option is chosen, and becomes a tree that YAML can hold. Detectron2
and torch are imported only then: tab completion and `--help` list files and take no seconds.
"""

import builtins
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf, SCMode

ROOT = Path(__file__).parents[2] / "lazy_configs"

# What a group's option settles besides the variable of the group's name: the features that heads
# read, the statistics of its pixels and, if there is one, the file of its pre-trained weights come
# with a backbone. They land at the root of the config.
COMPANIONS = {"backbone": ("decoder", "pixels", "pretrained")}


class LazyConfigSource(ConfigSource):
    """Serve `lazy://<folder>` to Hydra."""

    @staticmethod
    def scheme() -> str:
        return "lazy"

    def _file(self, config_path: str) -> Path:
        return Path(self.path, config_path.removesuffix(".yaml") + ".py")

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def is_group(self, config_path: str) -> bool:
        return Path(self.path, config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        return "/" in config_path and self._file(config_path).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        folder = Path(self.path, config_path)
        names: set[str] = set()
        if results_filter in (None, ObjectType.GROUP):
            names |= {p.name for p in folder.glob("[!_.]*") if p.is_dir()}
        if results_filter in (None, ObjectType.CONFIG):
            names |= {p.stem for p in folder.glob("[!_.]*.py")}
        return sorted(names)

    def load_config(self, config_path: str) -> ConfigResult:
        file, group = self._file(config_path), config_path.rpartition("/")[0]
        if not file.is_file():
            raise ConfigLoadError(f"No lazy config at {file}")
        try:
            tree = _load(file, file.stat().st_mtime_ns, group)
        except Exception as error:  # a lazy file is Python: whatever it raises, say which file
            raise ConfigCompositionException(f"{file}: {type(error).__name__}: {error}") from error
        # `choice` keeps the names of the chosen options: runs and tables are named after them.
        return ConfigResult(
            provider=self.provider,
            path=self.full_path(),
            config=OmegaConf.create(tree | {"choice": {group: file.stem}}),
            header={"package": "_global_"},
        )


class LazySearchPath(SearchPathPlugin):
    """Search `lazy_configs/` after `conf/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="lazy_configs", path=f"lazy://{ROOT}")


@cache  # a sweep composes a config for each of its rows
def _load(file: Path, modified: int, name: str) -> dict[str, Any]:
    """Return the variable `name` of a lazy file, and those of its companions that it defines.

    The trees are plain dicts, lists and scalars; every callable is replaced by its dotted name, and
    interpolations stay text.
    """
    from detectron2.config import LazyConfig

    original_import = builtins.__import__  # LazyConfig.load does not restore it when a file fails
    try:
        namespace = LazyConfig.load(str(file))
    finally:
        builtins.__import__ = original_import
    if name not in namespace:
        raise ValueError(f"{file} must define `{name}`; it defines {sorted(namespace)}")
    trees: dict[str, Any] = {}
    for variable in (name, *COMPANIONS.get(name, ())):
        if variable not in namespace:
            if (
                variable == "pretrained"
            ):  # as one of the config's keys: pretrained=null always works
                trees[variable] = None
            continue
        tree = OmegaConf.to_container(
            namespace[variable], resolve=False, structured_config_mode=SCMode.INSTANTIATE
        )
        trees[variable] = _plain(tree, f"{file}: {variable}")
        if variable == "pretrained" and not {"file", "source"} <= {*trees[variable]}:
            raise ValueError(f"{file}: write pretrained = dict(file=..., source=...)")
    return trees


def _plain(value: Any, where: str) -> Any:
    """Copy `value` keeping only what YAML can hold; `where` names it in errors."""
    from detectron2.config.instantiate import dump_dataclass

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
    raise ValueError(f"{where} is {value!r}; a config holds only values and L(...) calls")


def _dotted(target: Any, where: str) -> str:
    """Name a callable so that `locate` finds it again, from any process."""
    from detectron2.utils.registry import _convert_target_to_string, locate

    if isinstance(target, str):
        return target
    try:
        name = _convert_target_to_string(target)
        if locate(name) == target:
            return name
    except (AttributeError, ImportError):
        pass
    raise ValueError(
        f"{where}: {target!r} cannot be imported by name; move it into a module that can"
    )
