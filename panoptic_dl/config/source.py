"""Put `lazy_configs/` on Hydra's search path: <group>/<name>.py is option <name> of <group>.

Nothing here imports torch: tab completion and `--help` of groups list files only; a lazy file is
executed when its option is chosen.
"""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

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
        from .lazy import load  # imports Detectron2 and torch

        file, group = self._file(config_path), config_path.rpartition("/")[0]
        if not file.is_file():
            raise ConfigLoadError(f"No lazy config at {file}")
        try:
            tree = load(file, name=group, companions=COMPANIONS.get(group, ()))
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


def register() -> None:
    """Make the lazy configs known to Hydra; call before `hydra.main` or `compose`. Idempotent."""
    Plugins.instance().register(LazyConfigSource)
    Plugins.instance().register(LazySearchPath)
    OmegaConf.register_new_resolver("row_folder", _row_folder, replace=True)


def _row_folder(mode: str, name: str, said: str) -> str:
    from .sweep_plan import row_folder  # imports Hydra's sweeper

    return row_folder(mode, name, said)
