"""Make of a run the file that one would publish: no optimizer state, a name with row and hash.

    python scripts/export_weights.py RUN [--to FOLDER] [--checkpoint model_best.pth] [--ema]

RUN is an output folder. Taken is model_final.pth, else the newest checkpoint. The file is loaded
into the model of the run's saved config, and every value compared, before it gets its name.
"""

import argparse
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from panoptic_dl.config import allow, build
from panoptic_dl.weights.errors import WeightsError
from panoptic_dl.weights.export import export, open_checkpoint
from panoptic_dl.weights.provenance import megabytes
from panoptic_dl.weights.run_folder import find_checkpoint

CHOICES = ("dataset", "task", "backbone", "head")


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
    config = read_config(folder)
    checkpoint = open_checkpoint(find_checkpoint(folder, arguments.checkpoint), ema=arguments.ema)
    file = export(
        checkpoint,
        build(config.task.model),
        arguments.to or folder,
        row="_".join(config.choice[name] for name in CHOICES),
        pixel_mean=config.pixels.mean,
        pixel_std=config.pixels.std,
        image_format=config.dataset.image_format,
        run=folder,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
    )
    before, after = checkpoint.file.size, file.stat().st_size
    print(f"{checkpoint.file.path.name} ({megabytes(before)}) -> {file} ({megabytes(after)})")
    print("read again and loaded into the model of the run's config: every value is the same")


def read_config(folder: Path) -> DictConfig:
    """The run's saved config.

    Raises:
        WeightsError: there is none, or it lacks what names the row.
    """
    file = folder / ".hydra" / "config.yaml"
    if not file.is_file():
        raise WeightsError(f"{folder} is no run folder of ours: {file} is missing")
    try:
        config = OmegaConf.load(file)
        if isinstance(config, DictConfig) and all(config.choice[name] for name in CHOICES):
            return config
    except (OmegaConfBaseException, AttributeError, TypeError, KeyError) as error:
        raise WeightsError(f"{file} is damaged: {error}") from error
    raise WeightsError(f"{file} is no config of a run")


if __name__ == "__main__":
    main()
