"""Python configs, owned by Hydra: compose the tree of `conf/` and `lazy_configs/`, build it."""

from .builder import TargetError, allow, build
from .composition import ConfigError, compose

__all__ = ["ConfigError", "TargetError", "allow", "build", "compose"]
