"""Lazy files in every folder of configs: <group>/<name>.py is option <name> of <group>.

A lazy file is executed when its option is chosen, and becomes a tree that YAML can hold. Executing
it imports Detectron2 and torch, which takes seconds; so the trees of files that import nothing but
these and this package are kept in `$PANOPTIC_DL_CACHE/lazy`, until any of the sources changes, or
another Detectron2 or torch is installed.
"""

# mypy: disable-error-code="safe-super"

import ast
import builtins
import contextlib
import hashlib
import importlib.util
import json
from dataclasses import is_dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource,
)
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf, SCMode

from panoptic_dl.core.errors import import_advice
from panoptic_dl.core.files import PACKAGE, ROOT, cache_folder, write_text

LAZY_CONFIGS = ROOT / "lazy_configs"

# What a group's option settles besides the variable of the group's name: the features that heads
# read, the statistics of its pixels and, if there is one, the file of its pre-trained weights come
# with a backbone. They land at the root of the config.
COMPANIONS = {"backbone": ("decoder", "pixels", "pretrained")}

# Lazy files that import others may read anything, such as the environment: they are not kept.
KEPT_IMPORTS = ("detectron2", "panoptic_dl", "torch")


class _WithLazyFiles(ConfigSource):
    """A folder of configs in which <group>/<name>.py is an option of a group, as <name>.yaml is."""

    def _folder(self) -> Path | None:
        place = resources.files(self.path) if self.scheme() == "pkg" else Path(self.path)
        return place if isinstance(place, Path) else None  # else it is in an archive

    def _file(self, config_path: str) -> Path | None:
        """The lazy file of an option, if there is one; not of a config outside of the groups."""
        folder, path = self._folder(), config_path.removesuffix(".yaml")
        if folder is None or "/" not in path:
            return None
        file = folder / f"{path}.py"
        return file if file.is_file() else None

    def is_config(self, config_path: str) -> bool:
        return super().is_config(config_path) or self._file(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names, folder = super().list(config_path, results_filter), self._folder()
        if folder is not None and config_path and results_filter in (None, ObjectType.CONFIG):
            names += [file.stem for file in (folder / config_path).glob("[!_.]*.py")]
        return sorted({*names})

    def load_config(self, config_path: str) -> ConfigResult:
        file = self._file(config_path)
        if file is None or super().is_config(config_path):
            return super().load_config(config_path)
        group = config_path.rpartition("/")[0]
        try:
            tree = _trees(file, file.stat().st_mtime_ns, group)
        except Exception as error:  # a lazy file is Python: whatever it raises, say which file
            cure = ""
            if isinstance(error, ModuleNotFoundError):
                if error.name == "detectron2":
                    raise ConfigCompositionException(f"{error}: {import_advice(error)}") from error
                cure = f": install what has {error.name}, or name its folder, PYTHONPATH=FOLDER"
            raise ConfigCompositionException(
                f"{file}: {type(error).__name__}: {error}{cure}"
            ) from error
        # `choice` keeps the names of the chosen options: runs and tables are named after them.
        return ConfigResult(
            provider=self.provider,
            path=str(file),
            config=OmegaConf.create(tree | {"choice": {group: file.stem}}),
            header={"package": "_global_"},
        )


class ConfigFolder(_WithLazyFiles, FileConfigSource):
    """Serves a folder to Hydra: `conf/`, `lazy_configs/`, and those of the user's own."""


class ConfigPackage(_WithLazyFiles, ImportlibResourcesConfigSource):
    """Serves `pkg://package.conf` to Hydra."""


# Hydra, which registers its own again in a job of joblib, tells classes apart by this name.
ConfigFolder.__name__ = FileConfigSource.__name__
ConfigPackage.__name__ = ImportlibResourcesConfigSource.__name__


class LazySearchPath(SearchPathPlugin):
    """Search `lazy_configs/` after `conf/`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="lazy_configs", path=f"file://{LAZY_CONFIGS}")


@cache  # a sweep composes a config for each of its rows
def _trees(file: Path, modified: int, name: str) -> dict[str, Any]:
    """`_load`, or what it returned in an earlier process for the same sources."""
    place = hashlib.sha256(f"{file} {name}".encode()).hexdigest()
    kept = cache_folder() / "lazy" / f"{place}.json"
    try:
        sources = _sources(file)
    except (OSError, SyntaxError, ValueError):  # executing it says what is wrong
        sources = None
    if sources is None:
        return _load(file, name)
    digest = hashlib.sha256(_package_digest())
    for source in sorted(sources):
        digest.update(b"%d " % source.stat().st_size + source.read_bytes())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(kept.read_text())
        if record["sources"] == digest.hexdigest():
            return dict(record["trees"])
    trees = _load(file, name)
    text = json.dumps({"sources": digest.hexdigest(), "trees": trees})
    if json.loads(text)["trees"] == trees:  # keys of JSON are text
        with contextlib.suppress(OSError):  # without room it is executed again
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, text)
    return trees


def _sources(file: Path) -> set[Path] | None:
    """A lazy file and those that it imports; None where its tree may depend on anything else."""
    found: set[Path] = set()
    unread = [file]
    while unread:
        source = unread.pop()
        found.add(source)
        for node in ast.walk(ast.parse(source.read_bytes())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}"]
                if node.level:
                    place = names[0].replace(".", "/") + ".py"
                    unread += {source.parents[node.level - 1] / place} - found
                    continue
            for name in names:
                # What it may call is noted while it is executed.
                is_allow = name.startswith("panoptic_dl.config")
                if is_allow or name.partition(".")[0] not in KEPT_IMPORTS:
                    return None
    return found


@cache
def _package_digest() -> bytes:
    """Of this package, and of which Detectron2 and torch are installed."""
    digest = hashlib.sha256()
    for name in ("detectron2", "torch"):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            digest.update(f"{found.origin} {Path(found.origin).stat().st_mtime_ns}".encode())
    for file in sorted(Path(PACKAGE).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()


def _load(file: Path, name: str) -> dict[str, Any]:
    """The variable `name` of a lazy file, and those of its companions, as plain trees."""
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
