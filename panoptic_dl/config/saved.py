"""The config that a run has left in its folder, ready to build the run's model from."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from panoptic_dl.core.classes import CLASSES, load_classes
from panoptic_dl.core.files import local_path
from panoptic_dl.core.run_folder import config_file, is_exported
from panoptic_dl.core.settings import EXPERIMENT_PARTS

PARTS = (*EXPERIMENT_PARTS, "decoder", "pixels", "choice")
WITHOUT_DATASET = ("demo", "export")  # modes that need the model and its classes alone
REOPENING = (*WITHOUT_DATASET, "eval", "analyze")  # modes that take a trained model
RUNNING_EXPORTED = ("demo", "eval", "benchmark")  # those that take an exported file


def saved_config(folder: str | Path, *, with_classes: bool = True) -> DictConfig:
    """Read a run's config, unresolved; reading it runs nothing. ValueError names a damaged file.

    `with_classes` puts the run's classes in the place of what would read the dataset, so that a
    model can be built where its dataset is not.
    """
    folder = local_path(folder, "run")
    file = config_file(folder)
    if not file.is_file():
        raise ValueError(
            f"{folder} is no run folder of ours: {file} is missing; name one such as "
            "outputs/NAME/TIME, or for weights without a run choose backbone=, head=, dataset= "
            "and task= as they were trained, with weights=FILE"
        )
    try:
        config: Any = OmegaConf.load(file)
        for part in PARTS:
            if not isinstance(config[part], DictConfig):
                raise TypeError(f"{part} is no table")
    except Exception as error:  # PyYAML and OmegaConf raise many kinds on damaged files
        raise ValueError(f"{file} is damaged: {str(error)[:500]}") from error
    if not with_classes:
        return cast(DictConfig, config)
    if (folder / CLASSES).is_file():
        classes = load_classes(folder / CLASSES)
        with open_dict(config):
            config.dataset.num_classes = len(classes)
            config.dataset.thing_ids = list(classes.thing_ids)
            config.dataset.classes = {
                "_target_": "panoptic_dl.core.classes.Classes",
                "names": [name.replace("${", "\\${") for name in classes.names],  # plain text
                "colors": [list(color) for color in classes.colors],
                "thing_ids": list(classes.thing_ids),
            }
    elif "classes" not in config.dataset:
        raise ValueError(
            f"{file} is of a run from before runs knew the names of their classes: put a "
            f"{CLASSES} into {folder}, such as "
            '{"names": ["road", "car"], "colors": [[128, 64, 128], [0, 0, 142]], "thing_ids": [1]}'
        )
    return cast(DictConfig, config)


def run_of_weights(overrides: Sequence[str]) -> Path | None:
    """The run whose model a command line wants: `weights=` of it, or of a file in it.

    ValueError: an exported file for a mode that runs none, parts beside one in mode=demo, or none
    for mode=benchmark of one that lies in no run's folder.
    """
    given = {text.partition("=")[0]: text for text in overrides}
    mode = given.get("mode", "mode=train").partition("=")[2]
    if "weights" not in given:
        return None
    with contextlib.suppress(HydraException):  # which composing says in one line
        value = OverridesParser.create().parse_override(given["weights"]).value()
        if isinstance(value, str) and "${" not in value:
            weights = local_path(value, "weights")
            if is_exported(weights):
                _check_exported(weights, mode, given)
            folder = weights if weights.is_dir() else weights.parent
            there = config_file(folder).is_file()
            if mode == "benchmark" and is_exported(weights) and weights.is_file() and not there:
                _require_parts(weights, given)
            # An exported file has inside what mode=demo takes; mode=benchmark takes the parts of
            # its run, and of other files the weights alone.
            modes = {*REOPENING, "benchmark"} - {"demo"} if is_exported(weights) else REOPENING
            return folder if mode in modes and there else None
    return None


def _require_parts(weights: Path, given: Mapping[str, str]) -> None:
    """Raise ValueError unless a command line says of what network an exported file is.

    The default one would be timed in its place.
    """
    if not {"experiment", "backbone"} & given.keys():
        raise ValueError(
            f"weights={weights} lies in no run's folder, which would tell the network that PyTorch "
            "is to be timed with: give experiment=, or backbone=, head=, dataset= and task=, as it "
            "was trained, or name the file where mode=export has written it"
        )


def _check_exported(weights: Path, mode: str, given: Mapping[str, str]) -> None:
    """Raise ValueError where a command line cannot be about an exported file."""
    if mode not in RUNNING_EXPORTED:
        raise ValueError(
            f"weights={weights} is an exported file, which mode={mode} does not take, but mode="
            f"{', '.join(RUNNING_EXPORTED)}: name the run or file that it was exported from"
        )
    for key, text in given.items() if mode == "demo" else ():
        if key.lstrip("+~").partition(".")[0] in (*PARTS, "experiment"):
            raise ValueError(
                f"{text}: weights={weights} is an exported file, which has its parts and their "
                "numbers inside: leave that out, or give it to mode=export"
            )


def with_parts(config: DictConfig, saved: DictConfig, overrides: Sequence[str]) -> None:
    """Take the parts of a run's config, so that nobody repeats them.

    Leaves that are overridden, such as `dataset.center_threshold=0.3`, hold for the run's parts.
    `config` is changed; ValueError where other parts are asked for.
    """
    chosen = {text.partition("=")[0] for text in overrides}
    for group in EXPERIMENT_PARTS:
        mine, theirs = config.choice[group], saved.choice.get(group)
        if mine != theirs and {group, "experiment"} & chosen:
            key = group if group in chosen else "experiment"
            raise ValueError(
                f"weights={config.weights}: that run has {group}={theirs}, not {group}={mine}: "
                f"leave {key}= out, for the run's own config is used"
            )
    with read_write(config), open_dict(config):
        for part in PARTS:
            config[part] = saved[part]
        text = OmegaConf.to_yaml(config)
        for name in map(str, saved.keys() - config.keys()):  # such as class_weights
            if f"${{{name}" in text:
                config[name] = saved[name]
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.key_or_group
            if key.partition(".")[0] not in PARTS or key in EXPERIMENT_PARTS:
                continue
            if override.is_delete() or override.is_add():
                raise ValueError(
                    f"{override.input_line}: with weights= of a run its config is used, where "
                    "values can be changed, and none added or removed"
                )
            if not override.is_sweep_override():
                OmegaConf.update(config, key, override.value(), merge=False)
