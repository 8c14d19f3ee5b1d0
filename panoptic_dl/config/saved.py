"""The config that a run has left in its folder, ready to build the run's model from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from panoptic_dl.config.composition import is_choice, register
from panoptic_dl.core.classes import load_classes
from panoptic_dl.core.run_folder import CLASSES, CONFIG
from panoptic_dl.core.settings import EXPERIMENT_PARTS

PARTS = (*EXPERIMENT_PARTS, "decoder", "pixels", "choice")


def saved_config(folder: str | Path) -> DictConfig:
    """Read a run's config, unresolved; reading it runs nothing.

    Where the run has left its classes, they are put in the place of what would read the dataset, so
    that a model can be built where its dataset is not.

    Raises:
        ValueError: there is none, or it is damaged; the message names the file.
    """
    register()  # resolvers that the config may use
    folder = Path(folder)
    file = folder / CONFIG
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


def with_run_of_weights(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Take the parts of a run's config where `weights` is of a run, so that nobody repeats them.

    That is a run folder, or a file in one; otherwise the config stays as it is. Leaves that are
    overridden, such as `dataset.center_threshold=0.3`, hold for the run's parts, too.

    Args:
        config: as composed.
        overrides: what stood on the command line.

    Raises:
        ValueError: the run's config is damaged, or other parts are asked for.
    """
    if not isinstance(config.weights, str):
        return config
    weights = Path(config.weights).expanduser()
    folder = weights if weights.is_dir() else weights.parent
    if not (folder / CONFIG).is_file():
        return config
    saved = saved_config(folder)
    chosen = {text.partition("=")[0] for text in overrides if is_choice(text)}
    for group in EXPERIMENT_PARTS:
        mine, theirs = config.choice[group], saved.choice.get(group)
        if mine != theirs and {group, "experiment"} & chosen:
            key = group if group in chosen else "experiment"
            raise ValueError(
                f"weights={config.weights}: that run has {group}={theirs}, not {group}={mine}: "
                f"leave {key}= out, for the config in {folder / CONFIG} is used"
            )
    config = config.copy()
    with open_dict(config):
        for part in PARTS:
            config[part] = saved[part]
        texts = [text for text in overrides if not is_choice(text)]
        for override in OverridesParser.create().parse_overrides(texts):
            key = override.key_or_group
            if key.partition(".")[0] not in PARTS:
                continue
            if override.is_delete() or override.is_add():
                raise ValueError(
                    f"{override.input_line}: with weights= of a run its config is used, where "
                    "values can be changed, and none added or removed"
                )
            OmegaConf.update(config, key, override.value(), merge=False)
    return config
