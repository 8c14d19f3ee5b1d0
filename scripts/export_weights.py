"""Make of a run the file that one would publish: no optimizer state, named by experiment and hash.

    python scripts/export_weights.py RUN [--to FOLDER] [--checkpoint model_best.pth] [--ema]

RUN is an output folder. Taken is model_final.pth, else the newest checkpoint. The file is loaded
into the model of the run's saved config, and every value compared, before it gets its name.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from panoptic_dl.config import allow, build
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import printable
from panoptic_dl.core.run_folder import find_checkpoint
from panoptic_dl.weights.export import export
from panoptic_dl.weights.read import megabytes

CHOICES = ("dataset", "task", "backbone", "head")
LOOKUPS = (AttributeError, TypeError, KeyError)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--to", metavar="FOLDER", type=Path, help="default: RUN itself")
    parser.add_argument("--checkpoint", metavar="NAME", help="a .pth file in RUN")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument("--licence", default="not stated", help="kept in the file, as you state it")
    parser.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="a package of your own that the run's config builds from",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.run
    allow(*arguments.allow)
    config, published = read_config(folder)
    checkpoint = find_checkpoint(folder, arguments.checkpoint)
    file = export(
        checkpoint,
        build(config.task.model),
        arguments.to or folder,
        ema=arguments.ema,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
        **published,
    )
    before, after = (megabytes(path.stat().st_size) for path in (checkpoint, file))
    print(f"{checkpoint.name} ({before}) -> {file} ({after})")
    print("read again and loaded into the model of the run's config: every value is the same")


def read_config(folder: Path) -> tuple[DictConfig, dict[str, Any]]:
    """The run's saved config, and what is published of it: arguments of `export`.

    These values are taken as they stand in the file, never resolved: `${oc.env:...}` would publish
    a variable of whoever exports, and a choice such as `../x` would leave the folder.

    Raises:
        WeightsError: there is none, or what names the experiment is missing or no plain value.
    """
    file = folder / ".hydra" / "config.yaml"
    if not file.is_file():
        raise WeightsError(f"{folder} is no run folder of ours: {file} is missing")
    try:
        config = OmegaConf.load(file)
        if not isinstance(config, DictConfig):
            raise TypeError("no table")
        groups: list[Any] = [
            OmegaConf.to_container(config[key], resolve=False)
            for key in ("choice", "pixels", "dataset")
        ]
        choice, pixels, dataset = groups
        choices: dict[str, Any] = {name: choice.get(name) for name in CHOICES}
        statistics: dict[str, Any] = {name: pixels.get(name) for name in ("mean", "std")}
        image_format = dataset.get("image_format")
    except RecursionError as error:
        raise WeightsError(f"{file} is damaged: it is nested too deeply") from error
    except (OmegaConfBaseException, YAMLError, ValueError, OSError, *LOOKUPS) as error:
        raise WeightsError(f"{file} is damaged: {printable(str(error))}") from error
    for name, choice in choices.items():
        if not isinstance(choice, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", choice):
            raise WeightsError(
                f"{file} is no config of a run: choice.{name} is {printable(choice)}, and not a "
                "name of letters, digits, - and _; restore the file that the run wrote"
            )
    if image_format not in ("RGB", "BGR"):
        raise WeightsError(
            f"{file}: dataset.image_format is {printable(image_format)}; write RGB or BGR there"
        )
    for name, values in statistics.items():
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise WeightsError(f"{file}: pixels.{name} is no list of numbers; write them there")
    return config, {
        "row": "_".join(choices.values()),
        "image_format": image_format,
        **{f"pixel_{name}": tuple(map(float, values)) for name, values in statistics.items()},
    }


if __name__ == "__main__":
    main()
