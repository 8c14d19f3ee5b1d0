"""What the records in a run's folder say of it: run.json, and its config."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

logger = logging.getLogger(__name__)

CONFIGS = (".hydra/resolved.yaml", ".hydra/config.yaml")  # the first that is there


def config(folder: Path) -> dict[str, Any]:
    """The run's config, resolved where the folder has it so; {} if there is none."""
    for name in CONFIGS:
        file = folder / name
        try:
            found = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:
            logger.warning("Loggers are told nothing of %s, which is damaged: %s", file, error)
            return {}
        return found if isinstance(found, dict) else {}
    return {}


def chosen(about: Mapping[str, Any]) -> dict[str, str]:
    """Options of the groups that tell runs apart, as run.json has them; without empty ones."""
    groups = ("dataset", "task", "backbone", "head", "recipe", "experiment", "hardware", "sweep")
    choices = about.get("choices") or {}
    return {group: str(choices[group]) for group in groups if choices.get(group)}
