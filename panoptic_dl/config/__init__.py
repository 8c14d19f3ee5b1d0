"""Python configs, owned by Hydra: compose a tree from `conf/` and `lazy_configs/`, build its objects."""

from .builder import TargetError, allow, build
from .composition import ConfigError, compose

__all__ = ["ConfigError", "TargetError", "allow", "build", "compose"]
