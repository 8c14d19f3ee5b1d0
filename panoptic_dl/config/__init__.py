"""Python configs, owned by Hydra: compose the tree of `conf/` and `lazy_configs/`, build it."""

from panoptic_dl.config.builder import TargetError, allow, build
from panoptic_dl.config.composition import ConfigError, compose, options

__all__ = ["ConfigError", "TargetError", "allow", "build", "compose", "options"]
